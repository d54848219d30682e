"""Acceptance measurements of trisect's own targets; run from a checkout, not installed."""
