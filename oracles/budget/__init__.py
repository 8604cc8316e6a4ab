"""The error budget: how far from the truth a right answer may be, computed from the problem itself."""
