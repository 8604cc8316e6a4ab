"""Uniform registers that machine code reads where nothing has written them, on listings written by hand and drawn."""

import random

import pytest

from kernel.tools.assembly import blocks_of, reads, unwritten, writes

READ = "IMAD.U32 R1, RZ, RZ, UR{}"
WRITE = "UMOV UR{}, 0x1"


def listing(*rows):
    """Labels, and instructions as nvdisasm writes them; each has an address of its own."""
    return "\n".join(
        row + ":" if row.startswith(".L") else f"        /*{16 * i:04x}*/    {row} ;" for i, row in enumerate(rows)
    )


def faults(*rows):
    return [fault.register for fault in unwritten(listing(*rows))]


def test_a_straight_line():
    assert faults(WRITE.format(4), READ.format(4), "EXIT") == []
    assert faults(READ.format(4), WRITE.format(4), "EXIT") == [4]


def test_a_copy_is_as_unwritten_as_what_it_copies():
    assert faults("UMOV UR5, UR4", READ.format(5), "EXIT") == [5]
    assert faults("UMOV UR5, UR4", WRITE.format(5), READ.format(5), "EXIT") == []
    assert faults(WRITE.format(4), "UMOV UR5, UR4", READ.format(5), "EXIT") == []
    assert faults(WRITE.format(5), "@P0 BRA `(.L_x_0)", "UMOV UR5, UR4", ".L_x_0", READ.format(5), "EXIT") == [5]


def test_a_register_that_only_a_skipped_branch_writes():
    skipped = ("@P0 BRA `(.L_x_0)", WRITE.format(4), ".L_x_0", READ.format(4), "EXIT")
    assert faults(*skipped) == [4]
    assert faults(WRITE.format(4), *skipped) == []
    assert unwritten(listing(*skipped))[0].line.endswith("IMAD.U32 R1, RZ, RZ, UR4 ;")


@pytest.mark.parametrize("jump", ["@!P0 BRA `(.L_x_0)", "BRA P1, `(.L_x_0)", "BRA.U !UP0, `(.L_x_0)"])
def test_a_predicated_jump_may_not_jump(jump):
    assert faults(jump, READ.format(4), ".L_x_0", "EXIT") == [4]
    assert faults(WRITE.format(4), jump, READ.format(4), ".L_x_0", "EXIT") == []


def test_a_divergent_jump_may_not_jump_and_reads():
    assert faults("BRA.DIV UR5, `(.L_x_0)", READ.format(4), ".L_x_0", "EXIT") == [5, 4]


def test_nothing_runs_after_a_jump_that_always_jumps():
    assert faults("BRA `(.L_x_0)", READ.format(4), ".L_x_0", "EXIT") == []
    assert faults("EXIT", READ.format(4)) == []
    assert faults("@P0 EXIT", READ.format(4), "EXIT") == [4]


def test_a_loop():
    def loop(before):
        return (*before, ".L_x_0", READ.format(4), WRITE.format(4), WRITE.format(5), "@P0 BRA `(.L_x_0)", "EXIT")

    assert faults(*loop([WRITE.format(4)])) == []
    assert faults(*loop([])) == [4]
    assert faults(*loop([WRITE.format(4)])[:-1], READ.format(5), "EXIT") == []


@pytest.mark.parametrize("jump", ["BRX R2", "BRXU URZ"])
def test_a_table_of_jumps(jump):
    table = f'{jump} -0x10 (*"BRANCH_TARGETS .L_x_0,.L_x_1"*)'
    cases = (".L_x_0", WRITE.format(4), ".L_x_1", READ.format(4), "EXIT")
    assert faults(table, *cases) == [4]
    assert faults(WRITE.format(4), table, *cases) == []


def test_a_uniform_jump_reads_where_to():
    assert faults('BRXU UR0 -0x10 (*"BRANCH_TARGETS .L_x_0"*)', ".L_x_0", "EXIT") == [0]


@pytest.mark.parametrize("jump", ["BRX R2 -0x10", "CALL.REL.NOINC `(.L_x_0)", "RET.REL.NODEC R2 0x0", "BRA 0x120"])
def test_a_jump_that_cannot_be_followed_is_an_error(jump):
    with pytest.raises(ValueError, match="a jump must be a branch to labels"):
        blocks_of(listing(jump, ".L_x_0", "EXIT"))


@pytest.mark.parametrize(
    ("instruction", "written", "read"),
    [
        ("UMOV UR4, UR5", [4], [5]),
        ("@UP1 UIADD3 UR8, UR6, 0x6, URZ", [8], [6]),
        ("UIADD3 UR28, UP0, UR52, 0xf0, URZ", [28], [52]),
        ("UIADD3.64 UR18, UR42, 0x2, URZ", [18, 19], [42, 43]),
        ("UIMAD.WIDE.U32 UR4, UR6, UR7, UR8", [4, 5], [6, 7, 8, 9]),
        ("UIMAD.WIDE.U32 UR4, UR6, UR7, URZ", [4, 5], [6, 7]),
        ("ULDC.64 UR4, c[0x0][0x208]", [4, 5], []),
        ("USHF.R.U64 UR4, UR6, 0x3, UR7", [4], [6, 7]),
        ("UISETP.GE.AND UP1, UPT, UR59, 0x80, UPT", [], [59]),
        ("ULOP3.LUT UP0, URZ, UR4, 0x1, URZ, 0xc0, !UPT", [], [4]),
        ("R2UR UR5, R2", [5], []),
        ("R2UR P1, UR5, R2", [5], []),
        ("S2UR UR6, SR_CTAID.X", [6], []),
        ("ELECT P1, UR5, PT", [5], []),
        ("ELECT P1, URZ, PT", [], []),
        ("VOTEU.ANY UR4, UPT, P0", [4], []),
        ("FFMA R1, R2, UR7, -R3.reuse", [], [7]),
        ("STG.E desc[UR4][R2.64+0x8], R7", [], [4, 5]),
        ("LDG.E R2, desc[UR4][UR6.64]", [], [4, 5, 6, 7]),
        ("LDS.U8 R2, [R3+UR4+0x10c]", [], [4]),
        ("SYNCS.EXCH.64 URZ, [UR5+0x30], UR6", [], [5, 6, 7]),
        ("SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR15+0x32130], R18", [], [15]),
        ("HGMMA.64x128x16.F32 R24, gdesc[UR16], R24", [], [16, 17, 18, 19]),
        ("HGMMA.64x128x16.F32 R24, gdesc[UR16], RZ, !UPT", [], [16, 17, 18, 19]),
        ("HGMMA.64x64x16.F32 R88, R180, gdesc[UR16].tnspB, R88, gsb0", [], [18, 19]),
        ("UTMALDG.4D [UR8], [UR28]", [], [8, 9, 10, 11, 12, 13, 28, 29]),
        ("UTMALDG.2D.MULTICAST [UR8], [UR4], UR6", [], [8, 9, 10, 11, 4, 5, 6]),
        ("@UP0 UTMASTG.4D [UR8], [UR14]", [], [8, 9, 10, 11, 12, 14, 15]),
        ("@UP0 UTMAREDG.2D.ADD [UR8], [UR14]", [], [8, 9, 10, 14, 15]),
        ("NOP", [], []),
    ],
)
def test_what_an_instruction_writes_and_reads(instruction, written, read):
    line = listing(instruction)
    assert list(writes(line)) == written
    assert list(reads(line)) == read


def test_the_fault_that_was_found():
    """The second part of a wgmma descriptor, computed in a branch and used after it too."""
    product = "HGMMA.64x128x16.F32 R24, gdesc[UR16], R24"
    whole = tuple(WRITE.format(register) for register in (16, 17, 18))
    branch = ("@P0 BRA `(.L_x_0)", WRITE.format(19), product, ".L_x_0", product, "EXIT")
    assert faults(*whole, *branch) == [19]
    assert faults(*whole, WRITE.format(19), *branch) == []


REGISTERS = range(4, 7)


def drawn(seed):
    """Blocks of a random control-flow graph: what each does, as ("W" or "R", register), its jump, and what follows."""
    rng = random.Random(seed)
    count = rng.randint(2, 6)
    blocks = []
    for i in range(count):
        work = [(rng.choice("WWR"), rng.choice(REGISTERS)) for _ in range(rng.randint(0, 3))]
        one, other = (rng.randrange(count) for _ in range(2))
        following = [i + 1] if i + 1 < count else []
        jump, after = rng.choice(
            [
                ("", following),
                (f"BRA `(.L_x_{one})", [one]),
                (f"@P0 BRA `(.L_x_{one})", [one, *following]),
                (f"BRA.U !UP0, `(.L_x_{one})", [one, *following]),
                (f'BRX R2 -0x10 (*"BRANCH_TARGETS .L_x_{one},.L_x_{other}"*)', [one, other]),
                ("@P0 EXIT", following),
                ("EXIT", []),
            ]
        )
        blocks.append((work, jump, after))
    return blocks


def as_listing(blocks):
    rows = []
    for i, (work, jump, _) in enumerate(blocks):
        rows += [f".L_x_{i}", *((WRITE if kind == "W" else READ).format(register) for kind, register in work)]
        rows += [jump] if jump else []
    return listing(*rows)


def by_every_path(blocks):
    """Places and registers of faulty reads, by walking on with each set of registers that some path has written."""
    found, seen, waiting = set(), set(), [(0, frozenset())]
    while waiting:
        i, written = state = waiting.pop()
        if state in seen:
            continue
        seen.add(state)
        work, _, after = blocks[i]
        for j, (kind, register) in enumerate(work):
            if kind == "W":
                written = written | {register}
            elif register not in written:
                found.add((i, j, register))
        waiting += [(target, written) for target in after]
    return found


def test_random_graphs_against_every_path():
    faulty = 0
    for seed in range(2000):
        blocks = drawn(seed)
        text = as_listing(blocks)
        want = by_every_path(blocks)
        rows = {row.strip() for row in text.splitlines()}
        got = unwritten(text)
        assert all(fault.line in rows for fault in got)
        # A line's address tells its place: a label and a block's jump take one each.
        place = {}
        row = 0
        for i, (work, jump, _) in enumerate(blocks):
            place |= {f"/*{16 * (row + 1 + j):04x}*/": (i, j) for j in range(len(work))}
            row += 1 + len(work) + bool(jump)
        assert {(*place[fault.line.split()[0]], fault.register) for fault in got} == want, text
        faulty += bool(want)
    assert 200 < faulty < 1800
