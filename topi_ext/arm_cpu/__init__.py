"""Kernels for 64-bit Arm: the only place with NEON intrinsics."""
