"""Language models: import them, build their graphs, run them, measure their phases, choose devices.

`importing` turns a GGUF file or a model folder into a `bundle`; `gguf` reads the file format; `graphs` builds or adapts
the ONNX graphs; `running` generates text with prefill and decode on one or two devices; `phases` measures both phases
and predicts which devices are fastest for a request; `generate` combines these.
"""
