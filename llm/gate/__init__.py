"""Checks the numbers that a device computes for a language model before any answer is generated on it."""
