"""The Gluon kernels for sm_90, and what they share. Only device code."""
