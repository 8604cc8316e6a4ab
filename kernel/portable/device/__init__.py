"""The Triton kernels of the portable paths, and what they share. Device code alone."""
