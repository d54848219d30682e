"""Sessions: a plan loaded on engines, run item by item or as a stream."""
