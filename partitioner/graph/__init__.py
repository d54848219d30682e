"""From an ONNX file to a Graph: loading, shape inference, FLOPs, op classes."""
