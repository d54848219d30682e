"""Costs of one model: calibration runs, kernel breakdown, fitted cost models."""
