"""The paths for sm_90, forward and backward."""
