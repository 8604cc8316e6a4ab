"""Correct attention functions of different build."""
