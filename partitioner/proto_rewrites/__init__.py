"""Rewrites what onnx-ir or engines cannot read in a model's protobuf message, before the graph is made of it."""
