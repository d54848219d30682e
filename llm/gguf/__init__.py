"""GGUF files: weights, configuration and tokenizer of a llama-like model, read without torch and without trust."""
