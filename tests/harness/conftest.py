"""Small problems on one thread: a pool costs them more than it gives, and parallel workers fight over the cores."""

import subprocess

import pytest
import torch

torch.set_num_threads(1)

FULL = "size=4k"


@pytest.fixture
def disk(tmp_path):
    """Mount a disk of its own with these options, where the system lets us: a full one, one that is read-only."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options):
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True)
        if done.returncode:
            pytest.skip("no disk can be mounted here")
        if options == FULL:
            (folder / "filler").write_bytes(bytes(4096))
        return folder

    yield mount
    subprocess.run(["umount", str(folder)], capture_output=True)
