"""Accelerators that serve a host: the computational model of most published placement benchmarks, and its solvers."""
