"""Compares trisect with peers and with ideals, on real models."""
