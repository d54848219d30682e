"""Pipelines: one convex piece for each device, in the order of the graph."""
