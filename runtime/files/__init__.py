"""Writes files and folders so that nothing of the user is ever lost."""
