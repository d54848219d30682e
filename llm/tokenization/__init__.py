"""Turns text into token ids and back, as the model's own tokenizer does."""
