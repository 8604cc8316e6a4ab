"""What is installed here, and what would run: `flashattest doctor`."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from harness.devices import choose, prepare
from harness.interpreter import status

PACKAGES = ("flashattest", "torch", "triton", "numpy", "hypothesis", "pytest", "pytest-xdist")


def examine() -> dict[str, str]:
    """Facts by name: versions, the device, and whether Triton kernels are compiled or interpreted."""
    facts = {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}
    device = choose()
    prepare(device)
    facts["device"] = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    facts["kernels"] = "compiled" if device == "cuda" else "interpreted (TRITON_INTERPRET=1)"
    facts["interpreter"] = str(status())
    return facts


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
