"""The attention function under test: how it is found, imported and what it declares."""
