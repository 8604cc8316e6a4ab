"""Independent oracles, which check the truth."""
