"""Simulation of placements: schedules, energy, memory, validation, list scheduling."""
