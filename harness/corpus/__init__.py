"""The saved failures: their files, marks and bug reports, how they are replayed and written as scripts."""
