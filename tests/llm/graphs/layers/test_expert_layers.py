"""Mixtures of experts in blocks compute on each engine what they compute in float32, whatever the types of a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.llm import tiny_llms as kit
from tests.llm.architecture_files import write_architecture
from tests.llm.oracle_llama import mean_kl
from trisect.llm.bundle import Bundle, StoredForm
from trisect.llm.importing.model_import import open_model

PARTS = (20, 9, 1, 1, 5, 1)
IDS = kit.tokens(sum(PARTS))
EXACT = 1e-4
"""Float32 in another order of sums; seen: 8e-6."""
INT8_KL = 2e-3
"""ONNX Runtime rounds inputs of the products to 8 bits, and chooses other experts where two score nearly alike."""
STEPS_KL = 1e-3


def computed(bundle: Bundle, kind: str) -> np.ndarray:
    runner = kit.KINDS[kind](bundle)
    try:
        runner.reset(kit.cache_for(bundle))
        return kit.run_in_parts(runner, IDS, PARTS)
    finally:
        runner.close()


@pytest.mark.parametrize(
    ("variant", "gate_up", "down", "form"),
    [
        ("qwen3moe", "Q4_0", "Q4_0", "4 bits in blocks of 32"),
        ("qwen3moe", "Q4_0", "Q8_0", "8 bits in blocks of 32"),
        ("qwen3moe", "Q5_1", "Q4_1", "8 bits in blocks of 32"),
        ("qwen3moe", "BF16", "Q8_0", "BF16"),
        ("gpt-oss", "MXFP4", "MXFP4", "8 bits in blocks of 32"),
    ],
)
def test_experts_in_blocks_equal_those_in_float32(
    tmp_path: Path, variant: str, gate_up: str, down: str, form: str
) -> None:
    kinds = {f"{part}_exps.weight": gate_up for part in ("gate", "up")} | {"down_exps.weight": down}
    path = write_architecture(tmp_path / "a.gguf", variant, kinds=kinds)
    plain = open_model(path, weights="float32", folder=tmp_path / "plain")
    blocks = open_model(path, folder=tmp_path / "blocks")
    assert form in {stored.form for stored in blocks.forms if stored.type == gate_up}
    assert blocks.flops_per_token == 0
    assert blocks.decode_bytes_per_token < plain.decode_bytes_per_token
    expected = computed(plain, "stateful")
    np.testing.assert_allclose(computed(plain, "in_place"), expected, rtol=0, atol=EXACT)
    np.testing.assert_allclose(computed(plain, "growing"), expected, rtol=0, atol=EXACT)
    on_openvino = computed(blocks, "stateful")
    if max(_errors(blocks)) == 0:
        np.testing.assert_allclose(on_openvino, expected, rtol=0, atol=EXACT)
    assert mean_kl(expected, on_openvino) < STEPS_KL
    assert mean_kl(expected, computed(blocks, "in_place")) < INT8_KL


def _errors(bundle: Bundle) -> list[float]:
    forms: tuple[StoredForm, ...] = bundle.forms
    return [stored.error for stored in forms]
