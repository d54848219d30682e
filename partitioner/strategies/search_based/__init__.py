"""Metaheuristics, and the portfolio strategy 'auto'."""
