"""The cost model: cost terms of segments, regression, and the costs that a planner asks for."""
