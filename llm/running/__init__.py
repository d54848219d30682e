"""Text generation: tokenizer, chat template, KV cache, runners per device, sampling, the generation loop."""
