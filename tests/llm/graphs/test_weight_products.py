"""What both engines compute with every type of weight, against the weights according to the `gguf` package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import openvino
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from onnx import TensorProto

from tests.llm.gguf_factory import random_blocks
from trisect.llm.gguf.block_types import BLOCK_TYPES, DENSE_TYPES
from trisect.llm.gguf.gguf_reader import GgufTensor
from trisect.llm.graphs.layers.decoder_layers import embed
from trisect.llm.graphs.weight_products import product
from trisect.llm.graphs.weights_file import GraphBuilder, Stacked, Weight, WeightsFile
from trisect.llm.importing.weight_conversion import WeightConverter

TYPES = (*DENSE_TYPES, *BLOCK_TYPES)
COLUMNS = 512
OPSET = 23


def make(kind: str, rows: int, seed: int = 0) -> tuple[GgufTensor, np.ndarray]:
    """A tensor of moderate weights, and these weights."""
    data = random_blocks(kind, rows, COLUMNS, seed, magnitudes=(-2, -1))
    values = data.view(np.float32) if kind == "F32" else dequantize(data, GGMLQuantizationType[kind])
    return GgufTensor("w", (rows, COLUMNS), kind, data), values


def write_product(folder: Path, weight: Weight, *, batched: bool) -> Path:
    graph = GraphBuilder("weights.bin")
    shape: list[int | str] = [1, "tokens", COLUMNS] if batched else ["tokens", COLUMNS]
    y = product(graph, graph.input("x", TensorProto.FLOAT, shape), weight, "y", batched=batched)
    graph.output(y, TensorProto.FLOAT, [*shape[:-1], weight.shape[0]])
    graph.save(folder / "product.onnx", "product", OPSET)
    return folder / "product.onnx"


def by_openvino(path: Path, x: np.ndarray) -> np.ndarray:
    """Computed in float32, without rounding the inputs to 8 bits."""
    core = openvino.Core()
    options = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
    result: np.ndarray = core.compile_model(path, "CPU", options)({"x": x})[0]
    return result


def by_onnx_runtime(path: Path, x: np.ndarray) -> np.ndarray:
    result: np.ndarray = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    return result


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("kind", TYPES)
def test_products(tmp_path: Path, kind: str, batched: bool) -> None:
    tensor, weights = make(kind, rows=24)
    with WeightsFile(tmp_path / "weights.bin") as output:
        weight = WeightConverter(output).product([tensor], [None])
    assert weight.prefill is weight.decode
    path = write_product(tmp_path, weight.decode, batched=batched)
    x = np.random.default_rng(1).normal(size=(5, COLUMNS)).astype(np.float32)
    expected = x.astype(np.float64) @ weights.T.astype(np.float64)
    scale = np.abs(x) @ np.abs(weights.T)
    x = x[None] if batched else x
    assert (np.abs(by_openvino(path, x).reshape(expected.shape) - expected) <= 2e-6 * scale).all()
    rms = np.sqrt(np.mean(expected**2))
    assert np.sqrt(np.mean((by_onnx_runtime(path, x).reshape(expected.shape) - expected) ** 2)) < 0.01 * rms


@pytest.mark.parametrize("batched", [False, True])
def test_a_stack_of_different_types(tmp_path: Path, batched: bool) -> None:
    """As in real files: V in more bits than Q and K."""
    kinds = ("Q4_K", "Q4_K", "Q6_K", "F16")
    tensors, weights = zip(*(make(kind, 8, seed) for seed, kind in enumerate(kinds)), strict=True)
    order = np.array([3, 1, 2, 0, 7, 6, 5, 4])
    with WeightsFile(tmp_path / "weights.bin") as output:
        weight = WeightConverter(output).product(tensors, [order, None, None, order]).decode
    assert isinstance(weight, Stacked)
    assert [part.shape[0] for part in weight.parts] == [16, 8, 8]
    expected = np.concatenate([weights[0][order], weights[1], weights[2], weights[3][order]])
    x = np.eye(COLUMNS, dtype=np.float32)
    for rows in (slice(0, 32), slice(0, 8), slice(8, 16), slice(12, 28), slice(24, 32)):
        path = write_product(tmp_path, weight.rows(rows.start, rows.stop), batched=batched)
        result = by_openvino(path, x[None] if batched else x).reshape(COLUMNS, -1)
        np.testing.assert_allclose(result, expected[rows].T, rtol=0, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("engine", [by_onnx_runtime, by_openvino])
@pytest.mark.parametrize("kind", TYPES)
def test_embeddings_to_the_same_bits(tmp_path: Path, kind: str, engine: object) -> None:
    tensor, weights = make(kind, rows=24)
    with WeightsFile(tmp_path / "weights.bin") as output:
        weight = WeightConverter(output).table(tensor)
    graph = GraphBuilder("weights.bin")
    rows = embed(graph, weight, graph.input("x", TensorProto.INT64, [1, "tokens"]), [1, -1, COLUMNS], 1.0)
    graph.output(rows, TensorProto.FLOAT, [1, "tokens", COLUMNS])
    graph.save(tmp_path / "embedding.onnx", "embedding", OPSET)
    ids = np.array([[5, 0, 23, 5]])
    assert callable(engine)
    result = engine(tmp_path / "embedding.onnx", ids)
    if kind in ("Q4_1", "Q5_1", "Q2_K", "Q4_K", "Q5_K"):  # a fused multiplication and addition rounds once
        np.testing.assert_allclose(result[0], weights[ids[0]], rtol=0, atol=2e-7 * np.abs(weights).max())
    else:
        assert np.array_equal(result[0], weights[ids[0]])
