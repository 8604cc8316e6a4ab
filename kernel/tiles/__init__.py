"""Tile sizes: what fits a device, what ships, and what autotuning finds."""
