"""Costs of prefill, decode and KV-cache hand-over: measurement, storage, and the choice of devices."""
