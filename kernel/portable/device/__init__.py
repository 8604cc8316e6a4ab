"""The Triton kernels of the portable paths, and what they share. Only device code."""
