"""Weights against the `gguf` package, and against what ONNX Runtime's kernel makes of the blocks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize, quantize
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.llm.gguf_factory import write_tiny_gguf
from trisect.llm.gguf.gguf_reader import GgufFile, GgufTensor
from trisect.llm.gguf.quantised_blocks import (
    QuantBlocks,
    concat_rows,
    dequantise,
    half_rotation_order,
    take_rows,
    to_matmulnbits,
    to_wide_blocks,
)
from trisect.runtime.errors import InvalidModel

TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1")


def make(kind: str, rows: int = 12, columns: int = 96, seed: int = 0) -> tuple[GgufTensor, np.ndarray]:
    """A random tensor, and its weights according to the `gguf` package."""
    values = np.random.default_rng(seed).normal(0.01, 0.1, (rows, columns)).astype(np.float32)
    kind_id = GGMLQuantizationType[kind]
    content = quantize(values, kind_id)
    data = np.ascontiguousarray(content).view(np.uint8).reshape(rows, -1)
    return GgufTensor("w", (rows, columns), kind, data), dequantize(content, kind_id)


def expand(blocks: QuantBlocks) -> np.ndarray:
    """What the blocks stand for, float64, computed in another way than they are made."""
    if blocks.bits == 8:
        levels = blocks.data.astype(np.float64)
    else:
        levels = np.zeros((*blocks.data.shape[:2], 32))
        for i in range(32):
            levels[..., i] = (blocks.data[..., i // 2] >> (4 * (i % 2))) & 15
    weights = (levels - 2 ** (blocks.bits - 1)) * blocks.scales[..., None]
    if blocks.offset is not None:
        weights += blocks.offset[..., None]
    return weights.reshape(blocks.shape)


@pytest.mark.parametrize("kind", TYPES)
def test_dequantises_to_the_same_bits_as_gguf(kind: str) -> None:
    tensor, expected = make(kind)
    assert np.array_equal(dequantise(tensor).view(np.uint32), expected.view(np.uint32))


def test_dequantises_a_real_file_to_the_same_bits(models: Path) -> None:
    path = models / "SmolLM2-135M-Instruct.Q4_1.gguf"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    ours = GgufFile.open(path)
    for theirs in GGUFReader(path).tensors[:12]:
        expected = dequantize(theirs.data, theirs.tensor_type)
        assert np.array_equal(dequantise(ours.tensors[theirs.name]).view(np.uint32), expected.view(np.uint32))


def test_many_chunks_equal_one(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor, expected = make("Q4_1", rows=37)
    whole = to_matmulnbits(tensor, 8)
    monkeypatch.setattr("trisect.llm.gguf.quantised_blocks._CHUNK_ELEMENTS", 200)
    assert np.array_equal(dequantise(tensor), expected)
    assert np.array_equal(to_matmulnbits(tensor, 8).data, whole.data)
    assert np.array_equal(to_matmulnbits(tensor, 8).scales, whole.scales)


@pytest.mark.parametrize(("kind", "bits"), [("Q8_0", 8), ("Q4_0", 4), ("Q4_0", 8)])
def test_exact_forms(kind: str, bits: int) -> None:
    tensor, expected = make(kind)
    blocks = to_matmulnbits(tensor, bits)
    assert blocks.offset is None
    assert blocks.data.shape == (12, 3, 4 * bits)
    assert blocks.shape == expected.shape
    assert np.array_equal(expand(blocks).astype(np.float32), expected)


def test_q4_1_with_offset_is_exact() -> None:
    tensor, expected = make("Q4_1")
    blocks = to_matmulnbits(tensor, 4)
    assert blocks.offset is not None
    # m + 8 d is rounded once to float32.
    assert np.abs(expand(blocks) - expected).max() <= 1e-7 * np.abs(expected).max()


def test_q4_1_in_8_bits_is_nearly_lossless() -> None:
    tensor, expected = make("Q4_1", rows=256)
    errors = expand(to_matmulnbits(tensor, 8)) - expected
    rms = np.sqrt(np.mean(np.square(expected, dtype=np.float64)))
    assert np.sqrt(np.mean(errors**2)) < 0.0035 * rms
    # Never worse than the plain way, in any block.
    grouped = expected.reshape(-1, 32).astype(np.float64)
    scale = np.abs(grouped).max(axis=1, keepdims=True) / 127
    plain = np.square(np.rint(grouped / scale) * scale - grouped).sum(axis=1)
    ours = np.square(errors).reshape(-1, 32).sum(axis=1)
    assert (ours <= plain * (1 + 1e-5) + 1e-15).all()


@settings(max_examples=200, deadline=None)
@given(
    st.floats(-100, 100, width=16), st.floats(-100, 100, width=16), st.binary(min_size=16, max_size=16)
)  # fmt: skip
def test_any_q4_1_block_fits_into_8_bits(d: float, m: float, levels: bytes) -> None:
    data = np.frombuffer(np.array([d, m], "<f2").tobytes() + levels, np.uint8).reshape(1, 20)
    tensor = GgufTensor("w", (1, 32), "Q4_1", data)
    weights = dequantise(tensor).astype(np.float64)
    result = expand(to_matmulnbits(tensor, 8))
    assert np.abs(result - weights).max() <= np.abs(weights).max() / 127 + 1e-12


@pytest.mark.parametrize(("kind", "bits"), [("Q8_0", 8), ("Q4_0", 4), ("Q4_0", 8), ("Q4_1", 8)])
def test_onnx_runtime_reads_the_blocks_alike(kind: str, bits: int) -> None:
    tensor, _ = make(kind, rows=16, columns=128)
    blocks = to_matmulnbits(tensor, bits)
    rows, columns = blocks.shape
    node = onnx.helper.make_node(
        "MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft", K=columns, N=rows, bits=bits, block_size=32
    )
    graph = onnx.helper.make_graph(
        [node], "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [3, columns])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [3, rows])],
        [onnx.numpy_helper.from_array(blocks.data, "w"), onnx.numpy_helper.from_array(blocks.scales, "s")],
    )  # fmt: skip
    opsets = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("com.microsoft", 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(1).normal(size=(3, columns)).astype(np.float32)
    expected = x.astype(np.float64) @ expand(blocks).T
    assert np.abs(session.run(None, {"x": x})[0] - expected).max() < 1e-4


def test_stacking_and_reordering_rows() -> None:
    first, second = make("Q4_1", 4, seed=1)[0], make("Q4_0", 6, seed=2)[0]
    parts = [to_matmulnbits(first, 4), to_matmulnbits(second, 4)]
    stacked = concat_rows(parts)
    assert stacked.shape == (10, 96)
    assert np.array_equal(expand(stacked), np.concatenate([expand(part) for part in parts]))
    order = np.array([3, 0, 9, 5])
    assert np.array_equal(expand(take_rows(stacked, order)), expand(stacked)[order])
    with pytest.raises(ValueError, match="cannot stack"):
        concat_rows([to_matmulnbits(first, 4), to_matmulnbits(first, 8)])


def test_reordered_rows_rotate_alike() -> None:
    heads, head_dim, position = 2, 8, 5
    q, k = np.random.default_rng(3).normal(size=(2, heads, head_dim))
    angles = position * 10000.0 ** (-np.arange(0, head_dim, 2) / head_dim)
    cosines, sines = np.cos(angles), np.sin(angles)

    def interleaved(x: np.ndarray) -> np.ndarray:
        even, odd = x[:, 0::2], x[:, 1::2]
        return np.stack([even * cosines - odd * sines, even * sines + odd * cosines], axis=-1).reshape(x.shape)

    def halves(x: np.ndarray) -> np.ndarray:
        low, high = np.split(x, 2, axis=1)
        return np.concatenate([low * cosines - high * sines, low * sines + high * cosines], axis=1)

    order = half_rotation_order(heads, head_dim)
    expected = interleaved(q.copy()) @ k[0]
    result = halves(q.reshape(-1)[order].reshape(q.shape)) @ k.reshape(-1)[order].reshape(k.shape)[0]
    assert result == pytest.approx(expected)


@pytest.mark.parametrize(("kind", "bits"), [("F32", 8), ("F16", 4), ("Q8_0", 4), ("Q4_0", 2)])
def test_never_quantises_a_second_time(kind: str, bits: int) -> None:
    with pytest.raises(ValueError, match="without loss"):
        to_matmulnbits(make(kind)[0], bits)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("evil", [np.nan, np.inf])
def test_rejects_weights_that_are_not_finite(kind: str, evil: float) -> None:
    tensor, _ = make(kind)
    layout = {"F32": "<f4", "BF16": "<u2"}.get(kind, "<f2")
    value = {"BF16": 0x7FC0 if np.isnan(evil) else 0x7F80}.get(kind, evil)
    tensor.data[3, : np.dtype(layout).itemsize] = np.frombuffer(np.array([value], layout).tobytes(), np.uint8)
    with pytest.raises(InvalidModel, match="not finite"):
        dequantise(tensor)
    for bits in (4, 8):
        if (kind, bits) in {("Q8_0", 8), ("Q4_0", 4), ("Q4_0", 8), ("Q4_1", 4), ("Q4_1", 8)}:
            with pytest.raises(InvalidModel, match="not finite"):
                to_matmulnbits(tensor, bits)


@pytest.mark.parametrize("quant", ["Q4_0", "Q4_1", "Q8_0"])
def test_wide_blocks_round_each_weight_to_the_nearest_level(tmp_path: Path, quant: str) -> None:
    file = GgufFile.open(write_tiny_gguf(tmp_path / "m.gguf", quant=quant, hidden=128, ffn=192))
    tensor = file.tensors["blk.0.ffn_down.weight"]
    blocks = to_wide_blocks(tensor, 64)
    assert (blocks.block, blocks.shape) == (64, (128, 192))
    weights = dequantise(tensor).reshape(128, 3, 64)
    widened = (blocks.data.astype(np.float64) - 128) * blocks.scales[..., None]
    step = np.abs(weights).max(axis=-1, keepdims=True) / 127
    assert (np.abs(widened - weights) <= step * 0.5001).all()
