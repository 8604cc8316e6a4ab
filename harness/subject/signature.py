"""A signature given for a function that has none, or whose keywords have other names.

It is written as in a `def`, in parentheses after the subject's name; where the function's own name for a keyword
differs, that follows a colon: `torch.nn.functional:scaled_dot_product_attention(q, k, v, causal:is_causal=False)`.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from harness.errors import CannotRun
from strategies.case import INPUTS
from strategies.features import FEATURES

EXAMPLE = "q, k, v, causal=False, scale=None"
_SIGNED = re.compile(r"(?P<bare>.*?:[\w.]+)\((?P<signature>.*)\)")


def split_signature(name: str) -> tuple[str, str | None]:
    """Return a subject's name without the signature after it, and the signature, None where there is none."""
    found = _SIGNED.fullmatch(name)
    return (found["bare"], found["signature"]) if found else (name, None)


def with_signature(name: str, signature: str | None) -> str:
    """Return a subject's name with this signature, in the place of the one that it has, if any."""
    return name if signature is None else f"{split_signature(name)[0]}({signature})"


@dataclass(frozen=True)
class Signature:
    """What a function is called with.

    positional: names of `INPUTS` that have no other name, in their order. named: other inputs and the features, by the
    function's own names. constants: what every call is given besides, by name. defaults: of the features.
    """

    positional: tuple[str, ...]
    named: Mapping[str, str]
    constants: Mapping[str, Any]
    defaults: Mapping[str, Any]

    def arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the keyword arguments of a call. given: the inputs, and the features that are asked for, by name."""
        whole = {**self.defaults, **given}
        return {own: whole[name] for own, name in self.named.items()} | dict(self.constants)

    def source(self, name: str, function: str) -> str:
        """Return the source of a function `name` with our keywords that calls `function`."""
        parameters = [*INPUTS, *(f"{feature}={value!r}" for feature, value in self.defaults.items())]
        passed = [f"{own}={ours}" for own, ours in self.named.items()]
        passed += [f"{own}={value!r}" for own, value in self.constants.items()]
        call = f"{function}({', '.join([*self.positional, *passed])})"
        return f"def {name}({', '.join(parameters)}):\n    return {call}"


class Signed:
    """A function that is called by a signature given for it."""

    def __init__(self, function: Callable[..., Any], signature: Signature) -> None:
        self.__wrapped__, self._signature = function, signature
        names = (*INPUTS, *signature.defaults)
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        self.__signature__ = inspect.Signature([inspect.Parameter(name, kind) for name in names])
        self.__flashattest__ = getattr(function, "__flashattest__", {})

    def __call__(self, q: Any, k: Any, v: Any, **features: Any) -> Any:
        """Call the function."""
        given = {"q": q, "k": k, "v": v, **features}
        positional = [given[name] for name in self._signature.positional]
        return self.__wrapped__(*positional, **self._signature.arguments(given))


def parse(text: str) -> Signature:
    """Read a signature. Raises CannotRun, in one sentence, where it is none or says too little."""
    positional, named, constants, defaults = [], {}, {}, {}
    for name, own, default in _parameters(text):
        if name in INPUTS and own is None:
            positional.append(name)
        elif name in INPUTS:
            named[str(own)] = name
        elif name in FEATURES:
            named[own or name] = name
            defaults[name] = FEATURES[name].default if default is inspect.Parameter.empty else default
        elif default is inspect.Parameter.empty:
            known = ", ".join((*INPUTS, *FEATURES))
            raise CannotRun(
                f"The signature's {name!r} is none of {known}; name it after one of these, as in causal:{name}, "
                f"or give it a value, which every call then has."
            )
        else:
            constants[own or name] = default
    if missing := [name for name in INPUTS if name not in (*positional, *named.values())]:
        raise CannotRun(f"The signature {text!r} lacks {' and '.join(missing)}.")
    return Signature(tuple(positional), named, constants, defaults)


def _parameters(text: str) -> list[tuple[str, str | None, Any]]:
    """Each parameter's name, the function's own name for it where another is given, and its default."""
    try:
        arguments = ast.parse(f"def function({text}): ...").body[0].args  # type: ignore[attr-defined]
        plain = [*arguments.posonlyargs, *arguments.args]
        blank = [None] * (len(plain) - len(arguments.defaults))
        pairs = [*zip(plain, [*blank, *arguments.defaults], strict=True)]
        pairs += zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        return [
            (
                each.arg,
                ast.unparse(each.annotation) if each.annotation else None,
                inspect.Parameter.empty if default is None else ast.literal_eval(default),
            )
            for each, default in pairs
        ]
    except (SyntaxError, ValueError) as error:
        raise CannotRun(f"{text!r} is no signature; write one like {EXAMPLE!r}.") from error
