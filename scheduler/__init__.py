"""Time: what a placement costs, how good it can get at best, and whether it is sound. Knows no ONNX."""
