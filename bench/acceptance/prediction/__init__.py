"""The error of predictions, on random splits of real models."""
