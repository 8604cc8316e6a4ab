"""Without a CUDA device the kernel runs under Triton's interpreter, chosen before the kernel is imported."""

import os
from collections.abc import Iterator

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture
def _h100(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on an H100 with a Triton that the Hopper paths know; no GPU is asked."""
    # Imported here: only now is it settled whether the interpreter runs the kernel.
    from kernel.hopper import forward as hopper

    monkeypatch.setattr(hopper, "INTERPRETED", False)
    monkeypatch.setattr(hopper, "device_arch", lambda device: 90)
    monkeypatch.setattr(hopper, "multiprocessors", lambda device: 132)
    monkeypatch.setattr(hopper.triton, "__version__", "3.6.0")
    hopper.device_refusal.cache_clear()
    yield
    hopper.device_refusal.cache_clear()
