"""Profiles and measured segments as data, and their files."""
