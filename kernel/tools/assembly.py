"""A check on the assembler: uniform registers that the machine code reads where nothing has written them.

ptxas of CUDA 12.8 shared the second part of a wgmma descriptor between two places, of which the first does not always
run: the second then read a register that nothing had written, and the product an address that nothing had computed. No
tool says so, and a problem that takes the first place comes out right. Hence this: in the disassembly, follow every
path, and list each read of a uniform register that some path reaches without a write. A copy of such a register reads
nothing yet (ptxas leaves copies that are overwritten at once), but what it writes is as unwritten. Only sm_90's syntax
is known, and of its jumps only those within a kernel that calls nothing.
"""

from __future__ import annotations

import functools
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from triton import knobs

_LABEL = re.compile(r"^\s*(\.L_x_\d+):")
_INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][\w.]*)\s*(.*?)\s*;")
_COPY = re.compile(r"UMOV UR\d+, UR(\d+) ;")
_TARGET = re.compile(r"\.L_x_\d+")
_UNIFORM = re.compile(r"\bUR(\d+)\b")
# With both operands in shared memory a wgmma reads two descriptors of two registers each; with A in registers, the
# second of them.
_GDESC = re.compile(r"gdesc\[UR(\d+)\]")
# TMA takes a row of registers (the shared address, for a load the barrier's, the coordinates), and two of the address
# of a descriptor.
_TMA = re.compile(r"UTMA(LDG|STG|REDG)\.(\d)D\S* \[UR(\d+)\], \[UR(\d+)\]")
_JUMPS = ("BRA", "BRX", "BRXU", "EXIT")
_UNKNOWN_JUMPS = ("CALL", "RET", "JMP", "JMX", "JMXU", "BREAK")
# A predicate, before the register where an instruction writes both.
_PREDICATE = r"(?:U?P\w+, )?"
_WRITERS = re.compile(r"U(?!TMA|BLK)|R2UR|S2UR|VOTEU|REDUX|ELECT")


@dataclass
class Block:
    """Instructions that run one after the other: their lines, and the labels that may come next."""

    lines: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Unwritten:
    """A read of uniform register `register` that may come before any write, and its line of disassembly."""

    register: int
    line: str


def disassemble(cubin: bytes) -> str:
    """What nvdisasm makes of a compiled kernel."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(cubin)
        command = [knobs.nvidia.nvdisasm.path, "-c", str(path)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def unwritten(disassembly: str) -> list[Unwritten]:
    """The reads of uniform registers that some path from the start reaches without a write of them."""
    blocks = blocks_of(disassembly)
    written = _written_before(blocks)
    return [fault for name, block in blocks.items() for fault in _faults(block, written[name])]


def blocks_of(disassembly: str) -> dict[str, Block]:
    """The blocks by label, "" for the first; a block ends at a label or after a jump, which opens an unnamed one.

    ValueError for a jump whose targets are not known.
    """
    blocks = {"": Block()}
    name, unnamed = "", 0
    for line in disassembly.splitlines():
        label = _LABEL.match(line)
        match = _INSTRUCTION.search(line)
        if label:
            _fall(blocks[name], label[1])
            name = label[1]
            blocks[name] = Block()
        elif match:
            blocks[name].lines.append(line.strip())
            if match[2].split(".")[0] in _JUMPS + _UNKNOWN_JUMPS:
                unnamed += 1
                follower = f"after {unnamed}"
                is_sure = match[1] is None and not re.match(r"!?U?P\d", match[3]) and ".DIV" not in match[2]
                blocks[name].after = _targets(match[2], line) + ([] if is_sure else [follower])
                blocks[name].lines.append("")
                name = follower
                blocks[name] = Block()
    return blocks


def _targets(opcode: str, line: str) -> list[str]:
    """The labels that a jump may lead to."""
    kind = opcode.split(".")[0]
    targets = _TARGET.findall(line)
    if kind in _UNKNOWN_JUMPS or bool(targets) == (kind == "EXIT"):
        raise ValueError(f"a jump must be a branch to labels of the form .L_x_0, or an exit, got {line.strip()}")
    return targets


def _fall(block: Block, label: str) -> None:
    """Let a block that does not end in a jump go on at a label."""
    if not block.lines or block.lines[-1]:
        block.after = [label]


def _written_before(blocks: dict[str, Block]) -> dict[str, frozenset[int]]:
    """For each block the registers that every path to it has written; all of them where no path leads."""
    everything = frozenset(range(64))
    written = dict.fromkeys(blocks, everything) | {"": frozenset[int]()}
    reached = {""}
    waiting = [""]
    while waiting:
        name = waiting.pop()
        out = functools.reduce(_written_after, blocks[name].lines, written[name])
        for target in blocks[name].after:
            met = written[target] & out
            if met != written[target] or target not in reached:
                reached.add(target)
                written[target] = met
                waiting.append(target)
    return written


def _faults(block: Block, written: frozenset[int]) -> Iterator[Unwritten]:
    for line in block.lines:
        if not _COPY.search(line):
            yield from (Unwritten(register, line) for register in sorted(set(reads(line)) - written))
        written = _written_after(written, line)


def _written_after(written: frozenset[int], line: str) -> frozenset[int]:
    """The registers that are written after a line, where those given are before it."""
    copy = _COPY.search(line)
    if copy and int(copy[1]) not in written:
        return written.difference(writes(line))
    return written.union(writes(line))


def writes(line: str) -> Iterable[int]:
    """The uniform registers that an instruction writes, also where a predicate may keep it from running."""
    match = _INSTRUCTION.search(line)
    if match is None or not _WRITERS.match(match[2]):
        return []
    first = re.match(_PREDICATE + r"UR(\d+)\b", match[3])
    if first is None:
        return []
    register = int(first[1])
    is_pair = ".64" in match[2] or ".WIDE" in match[2]
    return [register, register + 1] if is_pair else [register]


def reads(line: str) -> Iterable[int]:
    """The uniform registers that an instruction reads; of TMA's rarer operations, the first of each bracket."""
    match = _INSTRUCTION.search(line)
    if not match:
        return []
    opcode, operands = match[2], match[3]
    if brackets := _TMA.match(f"{opcode} {operands}"):
        kind, dimensions, row, address = brackets[1], *map(int, brackets.groups()[1:])
        taken = [*range(row, row + dimensions + (2 if kind == "LDG" else 1)), address, address + 1]
        return taken + _of_operands(opcode, operands.split("]", 2)[2])
    descriptors = [int(register) for register in _GDESC.findall(operands)]
    first = 0 if re.match(r"R\d+, gdesc", operands) else 2
    found = [register + i for register in descriptors for i in range(first, 4)]
    rest = _GDESC.sub("", operands)
    if writes(line):
        rest = re.sub("^" + _PREDICATE + r"UR\d+", "", rest)
    return found + _of_operands(opcode, rest)


def _of_operands(opcode: str, operands: str) -> list[int]:
    """The registers of operands, pairs where they are 64 bits: a desc[], UR4.64, and by the opcode."""
    found: list[int] = []
    parts = operands.split(",")
    for i, operand in enumerate(parts):
        is_addend = i == len(parts) - 1
        is_pair = "[" not in operand and (".64" in opcode or (".WIDE" in opcode and is_addend))
        for register in _UNIFORM.finditer(operand):
            before, after = operand[: register.start()], operand[register.end() :]
            width = 2 if is_pair or before.endswith("desc[") or after.startswith(".64") else 1
            found += range(int(register[1]), int(register[1]) + width)
    return found
