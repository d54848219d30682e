"""Parts of the ONNX Runtime engines: sessions, execution providers, device memory, kernel profiling."""
