"""Independent oracles: what the truth is checked by."""
