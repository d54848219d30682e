"""Measurement of devices and links: latency, memory, power, contention, wake-up costs."""
