"""Hosts outside of the driver's process, and the memory of devices that have their own."""
