"""What the scripts that measure speed share. Run them from the root: `python benchmark/run_benchmark.py`."""
