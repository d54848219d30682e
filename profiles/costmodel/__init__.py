"""Cost models: cost terms of segments, regression, and the costs by which planning decides."""
