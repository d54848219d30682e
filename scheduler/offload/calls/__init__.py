"""Latency when each accelerator is called once."""
