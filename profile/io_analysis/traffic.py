"""Bytes that attention must move, and bytes that its loops ask for: naive against flash, by tile.

Naive attention (Algorithm 0 of the FlashAttention paper, https://arxiv.org/abs/2205.14135, section 2.2) reads Q and K
and writes S, reads S and writes P, reads P and V and writes O. Of H = B·Hq heads and elements of e bytes that is

    e·(B·(Hq + Hk)·N·d + H·N²) + 2·e·H·N² + e·(H·N² + B·(Hk + Hq)·N·d)   =   Θ(N·d + N²),

its Theorem 2; S and P are far larger than any cache, so all of it reaches DRAM. Causal or padded, it is the same.

Flash attention keeps S and P on the chip. What DRAM must move at least (`least`) is every input once and every output
once, with K and V of Hk heads and only the keys that some query sees:

    e·(H·N·d + 2·Hk·d·Σ_b L_b) + e·H·N·d + 4·H·N          (Q, K and V; O; LSE in fp32).

What a program asks of the L2 cache depends on the tile. The paper's Algorithm 1 keeps a key tile and walks over the
queries, which reads Q and O T_c times: Θ(N²·d²/M) for M bytes of shared memory. FlashAttention-2
(https://arxiv.org/abs/2307.08691, Algorithm 1) and our kernel keep a tile of BLOCK_M queries and walk over the keys, so
Q and O move once, and K and V once for each of the ceil(N / BLOCK_M) query tiles of each of the Hq heads (`asked`):

    e·H·N·d + 2·e·d·Σ_b Σ_h Σ_t v_t + e·H·N·d + 4·H·N,    v_t: the keys that tile t loads.

v_t is L_b, or with a causal mask min(L_b, last row of the tile + 1): tiles past the diagonal are never visited. Loads
that are masked by row stop there; loads by the tile (TMA) end at the next multiple of BLOCK_N, at N at most.

Heads that share K and V, and query tiles of one head, run side by side and ask for the same keys, which L2 then holds:
it serves `asked` less `least`, if all goes well. DRAM moves more than `least` where the K and V of the heads that run
at one time, B·Hk·N·d·2·e at most, outgrow L2.
"""

from __future__ import annotations

from dataclasses import dataclass

from speed.rows import DTYPES, Row

LSE_BYTES = 4


@dataclass(frozen=True)
class Traffic:
    """Bytes read and bytes written."""

    read: float
    written: float

    @property
    def total(self) -> float:
        """Both together."""
        return self.read + self.written

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(self.read + other.read, self.written + other.written)


@dataclass(frozen=True)
class Tile:
    """Queries and keys of a tile. whole: its loads fetch whole tiles of keys, as TMA does."""

    BLOCK_M: int
    BLOCK_N: int
    whole: bool = False

    @classmethod
    def parse(cls, text: str) -> Tile:
        """Read "128x64", or "128x64!" for whole tiles; what follows a further "x" is left out. ValueError otherwise."""
        sizes = text.removesuffix("!").split("x")[:2]
        if len(sizes) != 2 or not all(size.isdigit() and int(size) > 0 for size in sizes):
            raise ValueError(f"A tile must read like 128x64 (queries x keys), got {text!r}.")
        return cls(int(sizes[0]), int(sizes[1]), text.endswith("!"))

    def __str__(self) -> str:
        return f"{self.BLOCK_M}x{self.BLOCK_N}"


def naive_steps(row: Row) -> dict[str, Traffic]:
    """Algorithm 0, step by step."""
    q, kv, S = _queries(row), _keys(row, row.N * row.B), _scores(row)
    return {"S = Q·K^T": Traffic(q + kv, S), "P = softmax(S)": Traffic(S, S), "O = P·V": Traffic(S + kv, q)}


def written_steps(row: Row) -> dict[str, Traffic]:
    """What our naive provider does: Algorithm 0, and it repeats K and V for GQA, scales S in place, and masks it."""
    S, extra = _scores(row), {}
    if row.group > 1:  # K and V are read, written for each head of Q, and then read so: group - 1 times more
        repeated = 2 * row.group * _keys(row, row.N * row.B)
        extra["repeat K, V"] = Traffic(repeated, repeated)
    extra["scale S"] = Traffic(S, S)
    if row.causal or row.padding:
        extra["mask S"] = Traffic(S, S)
    return naive_steps(row) | extra


def naive(row: Row) -> Traffic:
    """Algorithm 0 as a whole."""
    return sum(naive_steps(row).values(), Traffic(0, 0))


def least(row: Row) -> Traffic:
    """What DRAM must move at least, by any attention that does not write its scores."""
    q = _queries(row)
    return Traffic(q + 2 * _keys(row, sum(row.lengths)), q + _lse(row))


def asked(row: Row, tile: Tile) -> Traffic:
    """What the programs of a flash kernel ask of L2."""
    q, keys = _queries(row), sum(loaded_keys(row, length, tile) for length in row.lengths)
    return Traffic(q + 2 * row.Hq * keys * row.d * _itemsize(row), q + _lse(row))


def loaded_keys(row: Row, length: int, tile: Tile) -> int:
    """Keys that all query tiles of one head load together, of `length` that it may see."""
    loaded = 0
    for first in range(0, row.N, tile.BLOCK_M):
        seen = min(length, min(first + tile.BLOCK_M, row.N)) if row.causal else length
        loaded += min(row.N, -(-seen // tile.BLOCK_N) * tile.BLOCK_N) if tile.whole else seen
    return loaded


def _itemsize(row: Row) -> int:
    return DTYPES[row.dtype].itemsize


def _queries(row: Row) -> float:
    """Bytes of Q, and of O."""
    return row.B * row.Hq * row.N * row.d * _itemsize(row)


def _keys(row: Row, tokens: int) -> float:
    """Bytes of K, or of V, over a number of tokens of the batch."""
    return row.Hk * tokens * row.d * _itemsize(row)


def _scores(row: Row) -> float:
    return row.B * row.Hq * row.N * row.N * _itemsize(row)


def _lse(row: Row) -> float:
    return row.B * row.Hq * row.N * LSE_BYTES
