"""Relax to a program of scheduled kernels."""
