"""From a model file to a Plan: preparation, strategy, cut, prediction, refinement, Pareto fronts."""
