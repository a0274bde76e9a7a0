"""Binary-network kernels for TVM: compute definitions, schedules and their NumPy reference."""
