"""The paths in Triton that run on every device: the portable one, forward and backward, and the one for decoding."""
