"""The placement problem: task graph, devices, costs, rules, and solutions."""
