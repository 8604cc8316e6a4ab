"""Bytes that attention moves, in theory and by Nsight Compute. Importing it makes the benchmark's `speed` importable."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "benchmark"))
