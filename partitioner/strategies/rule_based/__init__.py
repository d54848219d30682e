"""Simple rules and baselines."""
