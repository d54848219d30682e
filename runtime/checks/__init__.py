"""What a comparison of a split with the whole model consists of."""
