"""Runs a language model's graph on one device, with the way of keeping the KV cache that its engine supports."""
