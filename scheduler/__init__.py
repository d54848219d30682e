"""Time: placement problems, the simulation of placements, lower bounds, and validation. Independent of ONNX."""
