"""The body of a script as code: its tensors, its calls, and the checks of their results."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from harness.corpus.entries import Entry
from harness.corpus.script import parts, values
from harness.corpus.script.calls import Call
from oracles.features import MEANINGS
from strategies.case import INPUTS
from strategies.features import FEATURES
from strategies.layouts import GRADIENT_LAYOUTS
from strategies.tensors import fills_past_end

_OF_MEMORY = ("inputs_unchanged", "surroundings_unchanged")
_OF_THE_CALL = ("returns",)
_UPPER = {"dO": "D_O", "dLSE": "D_LSE"}


class Body:
    """The tensors and the calls of a script, with the parts, features and value families that they need.

    tensors: a line for each tensor's values. steps: the calls and the checks on what they return.
    """

    def __init__(self, entry: Entry, made: list[Call]) -> None:
        self.entry = entry
        self.tensors: list[str] = []
        self.families: set[str] = set()
        self.needed: dict[str, None] = {}
        self.features: dict[str, None] = {}
        self._names: dict[str, str] = {}
        numbered = [(call, str(i) if len(made) > 1 else "") for i, call in enumerate(made, 1)]
        steps = [self._call(call, number) for call, number in numbered]
        # Results are checked after all calls, since a later call may change them.
        steps += [self._check(call, number) for call, number in numbered if call.judgement is not None]
        self.steps = [step for step in steps if step]

    def _call(self, call: Call, number: str) -> str:
        lines = [f"{name}{number} = {self._lay_out(call, name)}" for name in call.problem.tensors]
        lines += [f"{name}{number} = {_literal(tensor)}" for name, tensor in _integer_tensors(call)]
        if call.judgement is None:
            return self._earlier(call, number, lines)
        if self._compares:
            lines += self._references(call, number)
        if self.entry.check in _OF_MEMORY:
            lines.append(
                f"before{number} = [memory_of(tensor) for tensor in ({', '.join(_all_tensors(call, number))})]"
            )
            self._use(parts.memory_of)
        lines += [f"{role}{number}.requires_grad_()" for role in call.problem.needs_grad]
        lines.append(f"returned{number} = {self._call_expression(call, number)}")
        return "\n".join([*lines, *self._backward(call, number)])

    def _earlier(self, call: Call, number: str, lines: list[str]) -> str:
        """Return the code of a call whose result is not checked."""
        lines += [f"{role}{number}.requires_grad_()" for role in call.problem.needs_grad]
        called = [f"returned{number} = {self._call_expression(call, number)}", *self._backward(call, number)]
        if not call.gradients:
            called = [self._call_expression(call, number)]
        return "\n".join([*lines, "with suppress(Exception):", *(f"    {line}" for line in called)])

    def _backward(self, call: Call, number: str) -> list[str]:
        if not call.gradients:
            return []
        self._use(parts.outputs)
        self._use(parts.gradients_of)
        found = f"outputs(returned{number}, {call.wants_lse})"
        given, inputs = _numbered(call.incoming, number), _numbered(call.problem.needs_grad, number)
        return [f"gradients{number} = gradients_of({found}, [{', '.join(given)}], [{', '.join(inputs)}])"]

    @property
    def _compares(self) -> bool:
        return self.entry.check not in (*_OF_MEMORY, *_OF_THE_CALL, "own_memory")

    def _call_expression(self, call: Call, number: str) -> str:
        arguments = [f"{name}={value}" for name, value in _arguments(call, number).items()]
        return f"subject({', '.join([*_numbered(INPUTS, number), *arguments])})"

    def _references(self, call: Call, number: str) -> list[str]:
        """Return the code of the right results, computed before the call, which may write to its inputs."""
        self._use(parts.scores)
        self._use(parts.reference)
        asked = {name: value for name, value in _arguments(call, number).items() if name in MEANINGS}
        self.features |= dict.fromkeys(asked)
        features = "{" + ", ".join(f'"{name}": {value}' for name, value in asked.items()) + "}"
        given = _numbered(INPUTS, number)
        lines = [f"wanted{number} = reference({', '.join([*given, features])})"]
        if not call.gradients:
            return lines
        self._use(parts.reference_gradients)
        dLSE = f"dLSE{number}" if "dLSE" in call.incoming else "None"
        arguments = ", ".join([*given, f"dO{number}", dLSE, features])
        return [*lines, f"wanted_gradients{number} = reference_gradients({arguments})"]

    def _check(self, call: Call, number: str) -> str:
        """Return the code that checks the result of one call."""
        if self.entry.check in _OF_MEMORY:
            sentence = '"The call wrote to the memory of its inputs."'
            return (
                f"after{number} = [memory_of(tensor) for tensor in ({', '.join(_all_tensors(call, number))})]\n"
                f"assert all(map(torch.equal, before{number}, after{number})), {sentence}"
            )
        if self.entry.check == "own_memory":
            self._use(parts.share_memory)
            self._use(parts.outputs)
            found = f"outputs(returned{number}, {call.wants_lse})"
            return (
                f"for output in {f'(*{found}, *gradients{number})' if call.gradients else found}:\n"
                f"    for tensor in ({', '.join(_numbered(call.inputs, number))}):\n"
                f'        assert not share_memory(output, tensor), "What came back lies in the memory of an input."'
            )
        return self._near(call, number) if self._compares else ""

    def _near(self, call: Call, number: str) -> str:
        assert call.judgement is not None
        budget = call.judgement.budget
        self._use(parts.outputs)
        self._use(parts.require_near)
        allowed_O, allowed_LSE = self._budget(budget("O")), self._budget(budget("LSE"))
        O = f'require_near("O", found{number}[0], wanted{number}[0], {allowed_O}, q{number}.dtype)'
        lines = [f"found{number} = outputs(returned{number}, {call.wants_lse})", O]
        if call.wants_lse:
            LSE = f'require_near("LSE", found{number}[1], wanted{number}[1], {allowed_LSE}, torch.float32)'
            lines.append(LSE)
        for i, name in enumerate(call.gradients):
            allowed = self._budget(budget(name))
            got, wanted = f"gradients{number}[{i}]", f'wanted_gradients{number}["{name}"]'
            lines.append(f'require_near("{name}", {got}, {wanted}, {allowed}, q{number}.dtype)')
        return "\n".join(lines)

    def _budget(self, budget: torch.Tensor) -> str:
        """Return slightly more than each element's budget, in few digits; as fp32 for a large tensor."""
        rounded = [float(f"{number * (1 + 1e-5):.6g}") for number in budget.flatten().tolist()]
        if len(set(rounded)) <= 1:
            return repr(rounded[0] if rounded else 0.0)
        if len(rounded) <= values.LITERAL_ELEMENTS:
            return self._name_expression(
                "ALLOWED", values.literal(torch.tensor(rounded, dtype=torch.float64).reshape(budget.shape))
            )
        if len(rounded) * 4 > values.MOST_BYTES:
            return repr(max(rounded))
        self._use(parts.from_bytes)
        return self._name_expression("ALLOWED", values.pack((budget * (1 + 1e-5)).float().reshape(budget.shape)))

    def _lay_out(self, call: Call, role: str) -> str:
        """Return an expression that makes a tensor with its memory layout."""
        self._use(parts.laid_out)
        tensor = call.problem.tensors[role]
        own = tensor[tuple(slice(None) if stride else slice(1) for stride in tensor.stride())]
        expression = values.literal(own)
        if expression is None and call.case is not None and not values.is_small(own):
            expression = self._generate(call, role)
        elif expression is None:
            self._use(parts.from_bytes)
            expression = values.pack(own)
        name = self._name_expression(_UPPER.get(role, role.upper()), expression)
        size = tensor.untyped_storage().nbytes() // tensor.element_size()
        where = f"{tuple(tensor.shape)}, {tuple(tensor.stride())}, {tensor.storage_offset()}, {size}"
        return f"laid_out({name}, {where}, DEVICE)"

    def _generate(self, call: Call, role: str) -> str:
        assert call.case is not None
        roles = call.case.features.roles()
        spec = roles[role].spec if role in roles else getattr(call.case, role)
        self.families.add(spec.values)
        tensor = call.problem.tensors[role]
        shape = (*tensor.shape, 1)[:4] if role == "dLSE" else (1,) * (4 - tensor.dim()) + tuple(tensor.shape)
        lines = [f"{values.generate(spec, role, shape, tensor.dtype)}.reshape({tuple(tensor.shape)})"]
        strides = GRADIENT_LAYOUTS[spec.layout](tuple(shape)).strides
        for batch, first, fill in fills_past_end(call.case, tensor.dtype, strides) if role in ("k", "v") else ():
            lines.append(f"NAME[{batch}, :, {first}:] = {fill!r}")
        return "\n".join(lines)

    def _name_expression(self, name: str, expression: str | None) -> str:
        """Return the name of an expression's value in the script; equal expressions share one name."""
        assert expression is not None
        if expression not in self._names:
            own = name if name not in self._names.values() else f"{name}_{len(self._names)}"
            self._names[expression] = own
            self.tensors.append(f"{own} = {expression.replace('NAME[', f'{own}[')}")
        return self._names[expression]

    def _use(self, part: Callable[..., Any]) -> None:
        self.needed[part.__name__] = None


def _numbered(roles: Iterable[str], number: str) -> list[str]:
    return [f"{role}{number}" for role in roles]


def _arguments(call: Call, number: str) -> dict[str, str]:
    """Return the keyword arguments of a call by name, as code."""
    problem, found = call.problem, {}
    for feature, value in problem.features.asked().items():
        for name, given in FEATURES[feature].arguments(value, problem.brought).items():
            found[name] = f"{name}{number}" if isinstance(given, torch.Tensor) else repr(given)
    return found


def _integer_tensors(call: Call) -> list[tuple[str, torch.Tensor]]:
    """Return the tensors of integers and booleans that features bring."""
    return [(name, tensor) for name, tensor in call.problem.brought.items() if not tensor.is_floating_point()]


def _literal(tensor: torch.Tensor) -> str:
    return f"torch.tensor({tensor.tolist()}, dtype={tensor.dtype}, device=DEVICE)"


def _all_tensors(call: Call, number: str) -> list[str]:
    """Return the names of all tensors that the call or its backward gets."""
    return _numbered([*call.inputs, *(name for name, _ in _integer_tensors(call)), *call.incoming], number)
