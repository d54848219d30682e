"""Comparison of devices and other systems on language models."""
