"""Bytes in theory: the formulas against a loop over tiles that counts each row it loads, and the visits of a kernel."""

import pytest

from io_analysis.traffic import (
    Tile,
    Traffic,
    asked,
    least,
    loaded_keys,
    naive,
    naive_steps,
    written_steps,
)
from kernel import flash_attention
from speed.rows import Row, make_inputs
from tests.kernel.visits import counted as visits_of

ROWS = [
    Row(N=48, d=16, B=2, Hq=4, Hk=4),
    Row(N=50, d=16, B=2, Hq=4, Hk=2, causal=True),
    Row(N=50, d=16, B=3, Hq=2, Hk=1, padding=0.5, ragged=True, dtype="fp32"),
    Row(N=37, d=8, B=2, Hq=2, Hk=2, padding=0.3, causal=True),
    Row(N=5, d=8, causal=True),
]
TILES = [Tile(16, 16), Tile(32, 16), Tile(16, 32), Tile(64, 64)]


def counted(row, tile):
    """(bytes read, bytes written) by a walk over the tiles that touches one row of Q, K, V or O after the other."""
    row_bytes = row.d * (4 if row.dtype == "fp32" else 2)
    read = written = 0
    for length in row.lengths:
        for _ in range(row.Hq):
            for m0 in range(0, row.N, tile.BLOCK_M):
                queries = [i for i in range(m0, m0 + tile.BLOCK_M) if i < row.N]
                read += row_bytes * len(queries)
                written += (row_bytes + 4) * len(queries)
                for n0 in range(0, row.N, tile.BLOCK_N):
                    keys = [j for j in range(n0, n0 + tile.BLOCK_N) if j < row.N]
                    seen = [j for j in keys if j < length and (not row.causal or j <= queries[-1])]
                    if seen:
                        read += 2 * row_bytes * len(keys if tile.whole else seen)
    return read, written


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("tile", TILES, ids=str)
@pytest.mark.parametrize("row", ROWS)
def test_what_tiles_ask_is_what_a_loop_counts(row, tile, whole):
    tile = Tile(tile.BLOCK_M, tile.BLOCK_N, whole)
    assert asked(row, tile) == Traffic(*counted(row, tile))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("padding", [0.0, 0.4])
def test_the_kernel_visits_the_tiles_that_are_counted(causal, padding):
    row, tile = Row(N=96, d=16, B=2, Hq=2, Hk=1, causal=causal, padding=padding, ragged=True), Tile(16, 32, whole=True)
    inputs = make_inputs(row, "cpu")
    for b, length in enumerate(row.lengths):
        q, k, v = (x[b : b + 1] for x in (inputs.q, inputs.k, inputs.v))
        lengths = None if inputs.seqlens_k is None else inputs.seqlens_k[b : b + 1]
        with visits_of("forward") as visits:
            flash_attention(q, k, v, causal, lengths, config="16x32x4x1")
        assert 32 * visits.total() == row.Hq * loaded_keys(row, length, tile)


def distinct(row):
    """Bytes of all elements that anything must read or write: each is counted once."""
    inputs = make_inputs(row, "cpu")
    item = inputs.q.element_size()
    keys = sum(row.lengths) * row.Hk * row.d
    return Traffic(item * (inputs.q.numel() + 2 * keys), item * inputs.q.numel() + 4 * row.B * row.Hq * row.N)


@pytest.mark.parametrize("row", ROWS)
def test_the_least_is_each_byte_once(row):
    assert least(row) == distinct(row)


@pytest.mark.parametrize("row", ROWS)
def test_no_tile_asks_for_less_than_the_least(row):
    assert all(asked(row, tile).read >= least(row).read for tile in TILES)


def test_one_tile_over_all_queries_of_a_head_asks_for_each_byte_once():
    row = Row(N=64, d=16, B=2, Hq=2, Hk=2)
    assert asked(row, Tile(64, 64)).read == least(row).read
    assert asked(row, Tile(16, 16)).read == least(row).read * 9 / 3


def test_gqa_heads_ask_again_for_what_dram_moves_once():
    own, shared = (Row(N=64, d=16, Hq=8, Hk=Hk) for Hk in (8, 1))
    assert asked(own, Tile(16, 16)) == asked(shared, Tile(16, 16))
    assert least(shared).read < least(own).read / 2


def test_naive_attention_moves_its_scores_four_times():
    row = Row(N=256, d=16, B=2, Hq=4, Hk=4)
    scores, o = 2 * 2 * 4 * 256 * 256, 2 * 2 * 4 * 256 * 16
    assert naive(row) == Traffic(2 * scores + 3 * o, 2 * scores + o)
    assert list(naive_steps(row)) == ["S = Q·K^T", "P = softmax(S)", "O = P·V"]


def test_our_naive_provider_moves_them_more_often():
    full, causal = (Row(N=256, d=16, Hq=4, Hk=2, causal=causal) for causal in (False, True))
    assert set(written_steps(full)) - set(naive_steps(full)) == {"repeat K, V", "scale S"}
    assert set(written_steps(causal)) - set(written_steps(full)) == {"mask S"}


@pytest.mark.parametrize(
    ("text", "tile"),
    [("128x64", Tile(128, 64)), ("128x64x8x3", Tile(128, 64)), ("128x128!", Tile(128, 128, whole=True))],
)
def test_a_tile_is_read_from_its_name(text, tile):
    assert Tile.parse(text) == tile


@pytest.mark.parametrize("text", ["", "128", "axb", "0x64"])
def test_another_name_is_refused(text):
    with pytest.raises(ValueError, match="must read like 128x64"):
        Tile.parse(text)
