"""Hypothesis profiles for property tests of attention: daily, in CI, and long.

Register and load them in your conftest: `from harness import profiles; profiles.load()`. The environment variable
FLASHATTEST_PROFILE selects another profile than the daily one; `--hypothesis-profile` overrides both.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings
from hypothesis.database import DirectoryBasedExampleDatabase

DAILY, CI, LONG = "flashattest", "flashattest-ci", "flashattest-long"
DATABASE = ".flashattest/examples"
_EXAMPLES = {DAILY: 100, CI: 50, LONG: 5000}


def register() -> None:
    """Register the profiles with Hypothesis. Load none."""
    for name, examples in _EXAMPLES.items():
        settings.register_profile(
            name,
            max_examples=examples,
            # The first call of a kernel compiles it: thousands of times slower than the second.
            deadline=None,
            # It writes files by renaming, so parallel workers can share it.
            database=DirectoryBasedExampleDatabase(DATABASE),
            print_blob=True,
            # Set explicitly: if CI is set, Hypothesis loads its own profile `ci`, whose derandomize=True would test
            # the same cases in every run and keep no database. The seed varies; a failure prints its case.
            derandomize=False,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
        )


def load() -> None:
    """Register the profiles and load the one that FLASHATTEST_PROFILE names; by default the daily one."""
    register()
    settings.load_profile(os.environ.get("FLASHATTEST_PROFILE", DAILY))
