"""Running a language model: its tokens, its chat format, its cache, its generation loop."""
