"""Algorithms on the graph: minimum cut, chain dynamic programming, multilevel, exact."""
