"""From a Graph to a Problem: tasks, constraints, and which device supports what."""
