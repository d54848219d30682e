"""Synthetic networks are valid models that engines run, reproducible by their seeds, and of many op classes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from trisect.profiles.synthetic_networks import synthetic_network

SEEDS = range(24)  # twice through the families


@pytest.mark.parametrize("seed", SEEDS)
def test_a_network_runs_with_finite_outputs(seed: int) -> None:
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = 1
    session = ort.InferenceSession(synthetic_network(seed), settings)
    inputs = session.get_inputs()[0]
    rng = np.random.default_rng(0)
    whole = inputs.type == "tensor(int64)"
    x = rng.integers(0, 8, inputs.shape) if whole else rng.standard_normal(inputs.shape).astype(np.float32)
    out = session.run(None, {inputs.name: x})[0]
    assert list(out.shape) == session.get_outputs()[0].shape
    assert np.isfinite(out).mean() > 0.99 or seed % 12 == 8  # arithmetic takes roots and exponentials of anything


def test_the_same_seed_gives_the_same_network() -> None:
    assert synthetic_network(5) == synthetic_network(5)
    assert len({synthetic_network(seed) for seed in SEEDS}) == len(SEEDS)


def test_networks_contain_the_important_operators() -> None:
    counts: Counter[str] = Counter()
    for seed in range(48):
        counts.update(node.op_type for node in onnx.load_from_string(synthetic_network(seed)).graph.node)
    wanted = "Conv BatchNormalization MatMul Softmax LayerNormalization LSTM Concat Resize MaxPool Gather Erf " \
        "QuantizeLinear ConvTranspose DynamicQuantizeLinear Transpose Sigmoid Clip Gemm Slice".split()  # fmt: skip
    assert [op for op in wanted if not counts[op]] == []


def test_quantised_networks_contain_convolutions_of_sequences_and_quantised_outputs() -> None:
    ranks, quantised_after = set(), 0
    for seed in range(6, 6 + 12 * 12, 12):
        graph = onnx.load_from_string(synthetic_network(seed)).graph
        readers = {name: node.op_type for node in graph.node for name in node.input}
        heavy = [node for node in graph.node if node.op_type in ("Conv", "MatMul")]
        ranks |= {len(a.ints) for node in heavy for a in node.attribute if a.name == "kernel_shape"}
        quantised_after += sum(readers.get(node.output[0]) == "QuantizeLinear" for node in heavy)
    assert ranks == {1, 2}
    assert quantised_after > 0
