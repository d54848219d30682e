"""Segment hosts for the Ray executor, on this machine and on other nodes."""
