"""Before any test module is imported: Triton's interpreter where there is no GPU, and our Hypothesis profile."""

import pytest
import torch

from harness.pytest import profiles
from harness.running.devices import choose, prepare

pytest_plugins = ["pytester"]

prepare(choose())
profiles.load()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
