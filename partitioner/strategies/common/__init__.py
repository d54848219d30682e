"""What strategies share: evaluation, repair, neighbourhood search."""
