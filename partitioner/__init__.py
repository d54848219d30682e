"""Split: a model becomes a Graph, a Graph a Problem, a strategy's Placement a Plan."""
