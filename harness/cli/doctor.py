"""What is installed here, and what would run: `flashattest doctor`."""

from __future__ import annotations

import platform

import torch

from harness.interpreter import status
from harness.running.devices import choose, prepare
from harness.subject.shipped import installed, requirement, shipped

PACKAGES = ("flashattest", "torch", "triton", "numpy", "hypothesis", "pytest", "pytest-xdist")


def collect_facts() -> dict[str, str]:
    """Return facts by name: versions, the device, and whether Triton kernels are compiled or interpreted."""
    facts = {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}
    device = choose()
    prepare(device)
    facts["device"] = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    facts["kernels"] = "compiled" if device == "cuda" else "interpreted (TRITON_INTERPRET=1)"
    facts["interpreter"] = str(status())
    return facts | _subjects()


def _subjects() -> dict[str, str]:
    """The subjects that ship: those whose package is installed, with its version, and what the others need."""
    needs = {name: requirement(name) for name in shipped()}
    here = [_with_version(name, package) for name, package in needs.items() if package is None or installed(package)]
    lacking = sorted({package for package in needs.values() if package and not installed(package)})
    return {"subjects": ", ".join(here), "pip install": " ".join(lacking) or "nothing more"}


def _with_version(name: str, package: str | None) -> str:
    return name if package is None else f"{name} ({package} {installed(package)})"


def _version(package: str) -> str:
    return installed(package) or "not installed"
