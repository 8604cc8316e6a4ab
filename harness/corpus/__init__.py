"""The saved failures: their files, how they are marked, replayed and written out as a script."""
