"""Faults as small torch attention functions."""
