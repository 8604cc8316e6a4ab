"""Small Triton kernels as strangers write them: each does one thing that once stood in the way of a verdict."""
