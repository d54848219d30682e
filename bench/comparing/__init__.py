"""Comparison of strategies and other systems on one model, measured interleaved."""
