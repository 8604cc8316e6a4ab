"""The rows that are worth a name: what each preset varies, and which providers it asks for.

A new preset is one decorated function that yields its rows; `dtype` is set for each that is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import product

from speed.rows import Row

TOKENS, HIDDEN = 16384, 2048
"""Of every row of a table of peers: B = TOKENS / N, H = HIDDEN / d."""

OURS = ("ours", "ours_portable")
SMALL = (16, 64, 256, 1024)
FUSED = ("sdpa_flash", "sdpa_cudnn", "sdpa_efficient", "flex_compiled", "flash_attn", "flash_attn_4", *OURS)
"""What never holds the scores in memory."""
ALL = ("naive", "sdpa_math", *FUSED)

PRESETS: dict[str, Preset] = {}


@dataclass(frozen=True)
class Preset:
    """Rows under a name. host: whether the time of enqueueing is of interest too. dtypes: when none are asked for."""

    name: str
    about: str
    make: Callable[[], Iterable[Row]]
    providers: tuple[str, ...] = FUSED
    dtypes: tuple[str, ...] = ("bf16",)
    host: bool = False

    def rows(self, dtypes: Iterable[str] = ()) -> list[Row]:
        """The rows in each dtype."""
        made = list(self.make())
        return [Row(**{**vars(row), "dtype": dtype}) for dtype in tuple(dtypes) or self.dtypes for row in made]


def preset(**limits: object) -> Callable[[Callable[[], Iterable[Row]]], Callable[[], Iterable[Row]]]:
    """Put the decorated function among the presets, under its name and the first line of its docstring."""

    def register(make: Callable[[], Iterable[Row]]) -> Callable[[], Iterable[Row]]:
        name, about = make.__name__, (make.__doc__ or "").split("\n")[0]
        PRESETS[name] = Preset(name, about, make, **limits)  # type: ignore[arg-type]
        return make

    return register


def peer_row(N: int, d: int, causal: bool, direction: str = "forward") -> Row:
    """A row of TOKENS tokens and hidden size HIDDEN."""
    return Row(N=N, d=d, B=max(1, TOKENS // N), Hq=HIDDEN // d, Hk=HIDDEN // d, causal=causal, direction=direction)


@preset(dtypes=("bf16", "fp16"))
def peers() -> Iterator[Row]:
    """16,384 tokens, hidden size 2,048: d 64, 128, 256, N 1k, 4k, 16k, causal or not."""
    for d, N, causal in product((64, 128, 256), (1024, 4096, 16384), (False, True)):
        yield peer_row(N, d, causal)


@preset()
def backward() -> Iterator[Row]:
    """The gradients of the table of peers, the rows of d 256 last."""
    for d, N, causal in product((64, 128, 256), (4096, 16384, 1024), (False, True)):
        yield peer_row(N, d, causal, "backward")


@preset(providers=("sdpa_flash", *OURS))
def fa2() -> Iterator[Row]:
    """The table of peers at N 1k and 4k against torch's FlashAttention-2 alone."""
    for d, N, causal in product((64, 128, 256), (1024, 4096), (False, True)):
        yield peer_row(N, d, causal)


@preset(providers=("sdpa_cudnn", "sdpa_efficient", "flex_compiled", *OURS))
def padding() -> Iterator[Row]:
    """A growing share of the keys past seqlens_k; lengths alike, and spread."""
    for causal, share in product((False, True), (0.0, 0.25, 0.5, 0.75, 0.9)):
        yield Row(N=4096, d=128, B=4, causal=causal, padding=share)
    for share in (0.25, 0.5, 0.75):
        yield Row(N=4096, d=128, B=4, padding=share, ragged=True)


@preset()
def gqa() -> Iterator[Row]:
    """32 heads of Q to 32, 8, 4 and 1 of K and V."""
    for Hk, causal in product((32, 8, 4, 1), (False, True)):
        yield Row(N=4096, d=128, B=2, Hq=32, Hk=Hk, causal=causal)


@preset(providers=ALL)
def memory() -> Iterator[Row]:
    """Memory of a call for N up to 64k, naive as far as it fits."""
    for power in range(10, 17):
        yield Row(N=1 << power, d=64, Hq=8, Hk=8)


@preset(providers=ALL)
def memory_backward() -> Iterator[Row]:
    """Memory of a forward and its backward for N up to 64k, naive as far as it fits."""
    for power in range(10, 17):
        yield Row(N=1 << power, d=64, Hq=8, Hk=8, direction="backward")


@preset(providers=("sdpa_flash", "sdpa_cudnn", *OURS))
def causal() -> Iterator[Row]:
    """What causal attention costs compared with full attention, N 512 to 32k."""
    for d, power, masked in product((64, 128), range(9, 16), (False, True)):
        yield peer_row(1 << power, d, masked)


@preset(providers=("naive", "sdpa_flash", "sdpa_cudnn", *OURS))
def io() -> Iterator[Row]:
    """The problems of `profile/analyze_io.py`: each d, causal, long, and with GQA."""
    for d in (64, 128, 256):
        yield peer_row(4096, d, False)
    yield peer_row(4096, 128, True)
    yield peer_row(16384, 128, False)
    yield Row(N=4096, d=128, B=4, Hq=16, Hk=2)


@preset(providers=ALL, host=True)
def launch() -> Iterator[Row]:
    """Small problems, where enqueueing takes longer than executing."""
    for N in SMALL:
        yield Row(N=N, d=64, Hq=8, Hk=8)


@preset(providers=ALL, host=True)
def launch_backward() -> Iterator[Row]:
    """Gradients of small problems, where autograd and enqueueing take longer than executing."""
    for N in SMALL:
        yield Row(N=N, d=64, Hq=8, Hk=8, direction="backward")


@preset(providers=("naive", "sdpa_math", "sdpa_flash", "ours"), dtypes=("fp16",), host=True)
def quick() -> Iterator[Row]:
    """Sizes that say nothing and run anywhere, the interpreter included."""
    for N, causal in product((32, 64), (False, True)):
        yield Row(N=N, d=32, Hq=2, Hk=2, causal=causal)
    yield Row(N=64, d=32, B=2, Hq=2, Hk=1, padding=0.5)
    yield Row(N=32, d=32, Hq=2, Hk=1, causal=True, direction="backward")
