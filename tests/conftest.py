"""Before any test module is imported: Triton's interpreter where there is no GPU, and our Hypothesis profile."""

from harness import profiles
from harness.devices import choose, prepare

pytest_plugins = ["pytester"]

prepare(choose())
profiles.load()
