"""Faults as edits of our Triton kernel's source."""
