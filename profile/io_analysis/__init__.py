"""Bytes that attention moves, in theory and by Nsight Compute.

Importing this package makes `speed`, the benchmark's, importable: import it first.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "benchmark"))
