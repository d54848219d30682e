"""ONNX graphs of decoders: written from GGUF weights, or edited from other exporters' graphs."""
