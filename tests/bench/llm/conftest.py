"""A tiny model for the comparisons of language models."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.llm.gguf_factory import write_tiny_gguf


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Long enough a context for the lengths at which phases are measured.
    metadata = {"llama.context_length": 256}
    return write_tiny_gguf(tmp_path_factory.mktemp("bench") / "tiny.gguf", hidden=128, heads=4, metadata=metadata)
