"""Tensors and the other ONNX values that flow between segments: dtypes, layouts, conversions, comparison."""
