"""Import of GGUF files, model folders and Hugging Face repositories into bundles."""
