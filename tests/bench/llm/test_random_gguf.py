"""The random model of a gigabyte, at a small size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trisect.bench.llm import random_gguf
from trisect.llm.architectures import read_config
from trisect.llm.gguf.gguf_reader import GgufFile
from trisect.llm.gguf.gguf_tokenizer import read_tokenizer
from trisect.llm.gguf.quantised_blocks import dequantise


@pytest.mark.parametrize(("quant", "kinds"), [("Q4_0", {"Q4_0", "Q6_K"}), ("Q4_K_M", {"Q4_K", "Q6_K"})])
def test_the_file_is_a_model_of_finite_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quant: str, kinds: set[str]
) -> None:
    for name, value in {"LAYERS": 3, "HIDDEN": 256, "HEADS": 4, "KV_HEADS": 2, "FFN": 512, "VOCAB": 384}.items():
        monkeypatch.setattr(random_gguf, name, value)
    file = GgufFile.open(random_gguf.write_random_gguf(tmp_path / "random.gguf", quant))
    config = read_config(file)
    assert (len(config.layers), config.hidden, config.vocab) == (3, 256, 384)
    assert {tensor.type for tensor in file.tensors.values()} == {"F32", *kinds}
    assert read_tokenizer(file).decode(read_tokenizer(file).encode("here on")) == "here on"
    for tensor in file.tensors.values():
        weights = dequantise(tensor)
        assert np.isfinite(weights).all()
        assert 1e-4 < np.abs(weights).mean() <= 1
