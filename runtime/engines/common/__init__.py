"""Helpers that several engines share."""
