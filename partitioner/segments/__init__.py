"""From a Placement to segments: convex cuts and the ONNX files of the segments."""
