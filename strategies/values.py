"""The numbers of a tensor: one decorated function per value family.

Every family uses a counter-based bit stream (Philox) and only arithmetic that IEEE 754 rounds the same everywhere
(+, -, *, /, comparisons), so that a case has the same tensors on every machine and version.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Role = str
"""The name of a tensor: q, k, v, dO, dLSE, or one that a feature brings."""
STREAMS: dict[Role, int] = {"q": 0, "k": 1, "v": 2, "dO": 3, "dLSE": 1 << 64}
"""What separates the streams of a seed: a key is four times the seed, below 2^34, plus this or a hash of the name."""


@dataclass(frozen=True)
class Stream:
    """Random numbers determined by a key alone: the bits of `numpy.random.Philox`, own transforms.

    NumPy keeps a bit generator's stream stable across releases, but not its distributions:
    https://numpy.org/doc/stable/reference/random/compatibility.html
    """

    bits: np.random.Philox

    @classmethod
    def of(cls, seed: int, role: Role) -> Stream:
        """Return the stream of one tensor of a case: the same seed gives each tensor different numbers."""
        return cls(np.random.Philox(key=seed * 4 + STREAMS.get(role, zlib.crc32(role.encode()) << 66)))

    def uniform(self, size: tuple[int, ...]) -> Array:
        """Numbers in (0, 1) on a grid of 2^-53, never 0."""
        words = self.bits.random_raw(math.prod(size)).reshape(size)
        return ((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52

    def normal(self, size: tuple[int, ...]) -> Array:
        """Mean 0, variance 1, |x| <= 3.47: the sum of four uniforms (Irwin-Hall), exact, with no libm in it."""
        words = self.bits.random_raw(2 * math.prod(size)).reshape(2, *size)
        halves = (words >> np.uint64(32)) + (words & np.uint64(2**32 - 1))
        sums: NDArray[np.int64] = (halves[0] + halves[1]).view(np.int64)
        return (sums - 2 * (2**32 - 1)).astype(np.float64) * (2.0**-32 * 1.7320508075688772)

    def integers(self, low: int, high: int, size: tuple[int, ...]) -> NDArray[np.int64]:
        """Whole numbers from low to high, both included."""
        return np.floor(self.uniform(size) * (high - low + 1)).astype(np.int64) + low


Family = Callable[[Stream, tuple[int, int, int, int], Role], Array]
FAMILIES: dict[str, Family] = {}


def family(function: Family) -> Family:
    """Register a value family under the function's name."""
    FAMILIES[function.__name__] = function
    return function


@family
def normal(stream: Stream, shape: tuple[int, int, int, int], role: Role) -> Array:
    """Independent, mean 0, variance 1: what every other harness draws."""
    return stream.normal(shape)


@family
def small_integers(stream: Stream, shape: tuple[int, int, int, int], role: Role) -> Array:
    """-2 to 2: every product and sum is exact, so a wrong one stands out."""
    return stream.integers(-2, 2, shape).astype(np.float64)


@family
def constant(stream: Stream, shape: tuple[int, int, int, int], role: Role) -> Array:
    """One number everywhere: equal scores, and O equal to V."""
    return np.full(shape, float(stream.integers(1, 8, (1,))[0]) / 4)


@family
def positive(stream: Stream, shape: tuple[int, int, int, int], role: Role) -> Array:
    """Uniform in (0, 1): no error cancels."""
    return stream.uniform(shape)


@family
def negative(stream: Stream, shape: tuple[int, int, int, int], role: Role) -> Array:
    """-8 to -16: against a positive tensor all scores are far below 0, where a padded key's score of 0 dominates."""
    return -8 - 8 * stream.uniform(shape)


@family
def outliers(stream: Stream, shape: tuple[int, int, int, int], role: Role) -> Array:
    """Normal, one in a thousand (one at least) with sigma 10: FlashAttention-3's test, arXiv 2407.08608 section 4.3."""
    is_outlier = stream.uniform(shape) < 0.001
    if is_outlier.size:
        is_outlier.flat[int(stream.integers(0, is_outlier.size - 1, (1,))[0])] = True
    return stream.normal(shape) + 10 * stream.normal(shape) * is_outlier


@family
def large(stream: Stream, shape: tuple[int, int, int, int], role: Role) -> Array:
    """Sigma 100, so that raw scores pass fp16's 65504; v: sigma 9000, half way to it."""
    return stream.normal(shape) * (9000 if role == "v" else 100)


@family
def tiny(stream: Stream, shape: tuple[int, int, int, int], role: Role) -> Array:
    """Sigma 2^-10: scores that hardly differ, outputs near fp16's smallest normal number."""
    return stream.normal(shape) * 2.0**-10


@family
def denormal(stream: Stream, shape: tuple[int, int, int, int], role: Role) -> Array:
    """Sigma 2^-18: fp16's subnormal numbers. (fp32's and bf16's are below what any device promises to keep.)"""
    return stream.normal(shape) * 2.0**-18


@family
def clusters(stream: Stream, shape: tuple[int, int, int, int], role: Role) -> Array:
    """Each row close to one of three centres, as trained keys are: equal weights that round the same way."""
    centres = 2 * stream.normal((3, shape[3]))
    which = stream.integers(0, 2, shape[:3])
    return centres[which] + 2.0**-6 * stream.normal(shape)


@family
def one_hot(stream: Stream, shape: tuple[int, int, int, int], role: Role) -> Array:
    """A single 1 in each row, at a place of its own: the output spells the weights out."""
    place = (np.arange(shape[2]) + int(stream.integers(0, shape[3] - 1, (1,))[0])) % shape[3]
    return np.broadcast_to(np.eye(shape[3])[place], shape).copy()


@family
def rising(stream: Stream, shape: tuple[int, int, int, int], role: Role) -> Array:
    """Rows that grow along N: scores rise (or fall) over the tiles and the running max moves in each."""
    return _ramp(shape) * (1 + stream.uniform(shape))


@family
def falling(stream: Stream, shape: tuple[int, int, int, int], role: Role) -> Array:
    """Rows that shrink along N: the first tile holds the row's maximum, and later ones lie far below it."""
    return _ramp(shape)[:, :, ::-1] * (1 + stream.uniform(shape))


def _ramp(shape: tuple[int, int, int, int]) -> Array:
    steps = np.arange(shape[2], dtype=np.float64) / max(1, shape[2] - 1)
    return np.broadcast_to(16 * steps[:, None], shape)


@family
def common_mean(stream: Stream, shape: tuple[int, int, int, int], role: Role) -> Array:
    """A large mean that all rows share: the softmax must not see it in K, and LSE must."""
    return 8 * stream.normal((1, 1, 1, shape[3])) + stream.normal(shape)


@family
def levels(stream: Stream, shape: tuple[int, int, int, int], role: Role) -> Array:
    """Each batch entry and head at a level of its own, 1/16 to 16: what leaks from one to another is large."""
    level = 2.0 ** (2 * stream.integers(-2, 2, (*shape[:2], 1, 1)).astype(np.float64))
    return level * stream.normal(shape)


@family
def sunken(stream: Stream, shape: tuple[int, int, int, int], role: Role) -> Array:
    """All scores of a query alike, near -3e3, -7e4, -7e6 or -7e8 at the default scale: a finite mask's numbers.

    q: a power of two for each row; k: -2^15; any other tensor: normal. So every sum over d is exact, though its terms
    are equal, which the error budget does not allow for.
    """
    if role == "k":
        return np.full(shape, -(2.0**15))
    if role != "q":
        return stream.normal(shape)
    levels = np.array((4e3, 1e5, 1e7, 1e9))[stream.integers(0, 3, (*shape[:3], 1))]
    _, exponents = np.frexp(levels / (2.0**15 * math.sqrt(shape[3])))
    return np.broadcast_to(np.ldexp(1.0, exponents - 1), shape).copy()
