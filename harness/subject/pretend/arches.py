"""What host code asks of a GPU, by its architecture: https://docs.nvidia.com/cuda/cuda-c-programming-guide/."""

from __future__ import annotations

from dataclasses import dataclass

from harness.errors import CannotRun

KIB = 1 << 10


class NotAnswered(CannotRun, RuntimeError, AttributeError):
    """The subject asked something of the pretended device that is not answered: the sentence says what.

    An AttributeError too, so that `hasattr` says that it is not there.
    """

    def __init__(self, what: str) -> None:
        super().__init__(f"The subject asks for {what}, which --pretend-cuda does not answer.")


@dataclass(frozen=True)
class Arch:
    """A GPU of one architecture. shared: bytes that one block may have, by asking. l2: bytes; memory: GiB."""

    name: str
    device: str
    multiprocessors: int
    shared: int
    shared_of_all: int
    threads: int
    l2: int
    memory: int

    @property
    def capability(self) -> tuple[int, int]:
        """Major and minor version."""
        digits = self.name.removeprefix("sm_")
        return int(digits[:-1]), int(digits[-1])


ARCHES = {
    arch.name: arch
    for arch in (
        Arch("sm_70", "Tesla V100-SXM2-32GB", 80, 96 * KIB, 96 * KIB, 2048, 6 << 20, 32),
        Arch("sm_75", "Tesla T4", 40, 64 * KIB, 64 * KIB, 1024, 4 << 20, 16),
        Arch("sm_80", "NVIDIA A100-SXM4-80GB", 108, 163 * KIB, 164 * KIB, 2048, 40 << 20, 80),
        Arch("sm_86", "NVIDIA A40", 84, 99 * KIB, 100 * KIB, 1536, 6 << 20, 48),
        Arch("sm_89", "NVIDIA L40S", 142, 99 * KIB, 100 * KIB, 1536, 96 << 20, 48),
        Arch("sm_90", "NVIDIA H100 80GB HBM3", 132, 227 * KIB, 228 * KIB, 2048, 50 << 20, 80),
        Arch("sm_100", "NVIDIA B200", 148, 227 * KIB, 228 * KIB, 2048, 126 << 20, 180),
        Arch("sm_120", "NVIDIA GeForce RTX 5090", 170, 99 * KIB, 100 * KIB, 1536, 96 << 20, 32),
    )
}
