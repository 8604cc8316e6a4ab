"""Compiling the kernels ahead of time, and checks of the machine code; nothing that a call needs."""
