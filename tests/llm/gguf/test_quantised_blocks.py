"""Weights against the `gguf` package, and the forms of MatMulNBits against the weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.llm.gguf_factory import random_blocks
from trisect.llm.gguf.block_types import BLOCK_BYTES, BLOCK_TYPES, DENSE_TYPES, Groups, Scale
from trisect.llm.gguf.gguf_reader import GgufFile, GgufTensor
from trisect.llm.gguf.quantised_blocks import (
    BlockForm,
    QuantBlocks,
    chunk_groups,
    convert,
    dequantise,
    exact_form,
    half_rotation_order,
    offset_free_form,
    row_chunks,
    wide_form,
    widen,
)
from trisect.runtime.errors import InvalidModel

TYPES = (*DENSE_TYPES, *BLOCK_TYPES)
OFFSETS = ("Q4_1", "Q5_1", "Q2_K", "Q4_K", "Q5_K")


def make(kind: str, rows: int = 12, columns: int = 512, seed: int = 0) -> tuple[GgufTensor, np.ndarray]:
    """A random tensor, and its weights according to the `gguf` package."""
    data = random_blocks(kind, rows, columns, seed)
    values = data.view(np.float32) if kind == "F32" else dequantize(data, GGMLQuantizationType[kind])
    return GgufTensor("w", (rows, columns), kind, data), values


def expand(blocks: QuantBlocks) -> np.ndarray:
    """What the blocks stand for, float64 [rows, columns], computed in another way than they are made."""
    form = blocks.form
    levels = blocks.data.astype(np.float64)
    if form.bits == 4:
        levels = np.empty((*blocks.data.shape[:2], form.block))
        for i in range(form.block):
            levels[..., i] = (blocks.data[..., i // 2] >> (4 * (i % 2))) & 15
    scales = values(blocks.scales, levels.shape[1])
    weights = (levels - 2 ** (form.bits - 1) + form.shift) * scales[..., None]
    if blocks.offsets is not None:
        weights += (-1 if blocks.subtracts else 1) * values(blocks.offsets, levels.shape[1])[..., None]
    return weights.reshape(len(weights), -1)


def values(scale: Scale, groups: int) -> np.ndarray:
    base = np.repeat(scale.base.astype(np.float64), groups // scale.base.shape[1], axis=1)
    return base if scale.factor is None else base * scale.factor


def converted(tensor: GgufTensor, form: BlockForm) -> QuantBlocks:
    return convert(chunk_groups(tensor, tensor.data), form)


def rms(array: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(array, dtype=np.float64))))


def test_block_sizes_are_those_of_the_gguf_package() -> None:
    assert {name: GGML_QUANT_SIZES[GGMLQuantizationType[name]] for name in TYPES} == BLOCK_BYTES


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("seed", range(3))
def test_dequantises_to_the_same_bits_as_gguf(kind: str, seed: int) -> None:
    tensor, expected = make(kind, rows=40, seed=seed)
    assert np.array_equal(dequantise(tensor).view(np.uint32), expected.view(np.uint32))


@pytest.mark.slow(6)
@pytest.mark.parametrize("name", ["SmolLM2-135M-Instruct.Q4_1.gguf", "gemma-3-270m-q4_k_m.gguf"])
def test_dequantises_a_real_file_to_the_same_bits(models: Path, name: str) -> None:
    if not (models / name).exists():
        pytest.skip(f"{models / name} is not there")
    ours = GgufFile.open(models / name)
    theirs = {tensor.name: tensor for tensor in GGUFReader(models / name).tensors}
    assert ours.tensors.keys() == theirs.keys()
    seen: dict[str, int] = {}
    for tensor in ours.tensors.values():
        seen[tensor.type] = seen.get(tensor.type, 0) + 1
        if seen[tensor.type] <= 3 and tensor.rows * tensor.columns < 1 << 24:
            other = theirs[tensor.name]
            expected = dequantize(other.data, other.tensor_type)
            assert np.array_equal(dequantise(tensor).view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("kind", BLOCK_TYPES)
def test_the_exact_form_loses_nothing(kind: str) -> None:
    tensor, expected = make(kind, rows=64)
    form = exact_form(BLOCK_TYPES[kind])
    assert form.has_offsets == (kind in OFFSETS)
    assert form.bits == (4 if kind in ("Q4_0", "Q4_1", "Q2_K", "Q3_K", "Q4_K") else 8)
    blocks = converted(tensor, form)
    assert blocks.data.shape == (64, 512 // form.block, form.block * form.bits // 8)
    assert np.array_equal(blocks.floats().reshape(expected.shape), expected)
    # Rounded once to float32 by `gguf` (product and sum), so up to half a unit of the larger of the two summands.
    bound = np.maximum(np.abs(expected), np.abs(expand(blocks))) + (0 if blocks.offsets is None else 4 * rms(expected))
    assert (np.abs(expand(blocks) - expected) <= 2.0**-23 * bound).all()


@pytest.mark.parametrize("kind", BLOCK_TYPES)
def test_no_form_named_exact_ever_rounds(kind: str) -> None:
    tensor, expected = make(kind)
    forms = [
        BlockForm(bits, block, "exact", has_offsets, shift)
        for bits in (4, 8)
        for block in (16, 32, 64)
        for has_offsets in (False, True)
        for shift in (-8, 0, 8, 128)
    ]
    for form in forms:
        try:
            blocks = converted(tensor, form)
        except ValueError:
            continue
        assert np.array_equal(blocks.floats().reshape(expected.shape), expected), form
    with pytest.raises(ValueError, match="do not fit"):
        converted(tensor, BlockForm(4, 64, "exact"))


@pytest.mark.parametrize("kind", OFFSETS)
def test_eight_bits_in_steps_are_nearly_lossless(kind: str) -> None:
    form = offset_free_form(BLOCK_TYPES[kind])
    assert (form.bits, form.rounding, form.has_offsets) == (8, "steps", False)
    weights = np.random.default_rng(0).normal(0, 0.1, (256, 16, form.block)).astype(np.float32)
    m = weights.min(axis=2)
    d = (weights.max(axis=2) - m) / BLOCK_TYPES[kind].level_range[1]
    q = np.rint((weights - m[..., None]) / d[..., None])
    groups = Groups(q.astype(np.int8), Scale(d), Scale(m), subtracts=False)
    expected = groups.floats().reshape(256, -1).astype(np.float64)
    errors = expand(convert(groups, form)) - expected
    assert rms(errors) < 0.0035 * rms(expected)
    # Never worse than the plain way, in any block.
    grouped = expected.reshape(-1, form.block)
    scale = np.abs(grouped).max(axis=1, keepdims=True) / 127
    plain = np.square(np.rint(grouped / scale) * scale - grouped).sum(axis=1)
    ours = np.square(errors).reshape(grouped.shape).sum(axis=1)
    assert (ours <= plain * 1.001 + 1e-9).all()


@settings(max_examples=200)
@given(
    st.floats(-100, 100, width=16), st.floats(-100, 100, width=16), st.binary(min_size=16, max_size=16)
)  # fmt: skip
def test_any_q4_1_block_fits_into_8_bits(d: float, m: float, levels: bytes) -> None:
    data = np.frombuffer(np.array([d, m], "<f2").tobytes() + levels, np.uint8).reshape(1, 20)
    tensor = GgufTensor("w", (1, 32), "Q4_1", data)
    weights = dequantise(tensor).astype(np.float64)
    result = expand(converted(tensor, offset_free_form(BLOCK_TYPES["Q4_1"])))
    assert np.abs(result - weights).max() <= np.abs(weights).max() / 127 + 1e-12


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q6_K"])
def test_wide_blocks_round_each_weight_to_the_nearest_level(kind: str) -> None:
    tensor, expected = make(kind)
    blocks = converted(tensor, wide_form(64))
    assert blocks.data.shape == (12, 8, 64)
    weights = expected.reshape(12, 8, 64)
    step = np.abs(weights).max(axis=-1, keepdims=True) / 127
    assert (np.abs(expand(blocks).reshape(weights.shape) - weights) <= step * 0.5001).all()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("block", [16, 32, 64])
def test_onnx_runtime_reads_the_blocks_alike(bits: int, block: int) -> None:
    generator = np.random.default_rng(0)
    levels = generator.integers(-(1 << (bits - 1)), 1 << (bits - 1), (16, 256 // block, block)).astype(np.int8)
    scales = generator.uniform(-0.02, 0.02, levels.shape[:2]).astype(np.float32)
    blocks = convert(Groups(levels, Scale(scales), None, subtracts=False), BlockForm(bits, block, "exact"))
    rows, columns = 16, 256
    node = onnx.helper.make_node(
        "MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft", K=columns, N=rows, bits=bits, block_size=block
    )
    graph = onnx.helper.make_graph(
        [node], "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [3, columns])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [3, rows])],
        [onnx.numpy_helper.from_array(blocks.data, "w"), onnx.numpy_helper.from_array(scales, "s")],
    )  # fmt: skip
    opsets = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("com.microsoft", 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(1).normal(size=(3, columns)).astype(np.float32)
    expected = x.astype(np.float64) @ expand(blocks).T
    assert np.abs(session.run(None, {"x": x})[0] - expected).max() < 1e-4 * np.abs(expected).max()


def test_chunks_of_rows_in_another_order(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor, expected = make("Q4_K", rows=37)
    monkeypatch.setattr("trisect.llm.gguf.quantised_blocks._CHUNK_ELEMENTS", 1024)
    assert np.array_equal(dequantise(tensor), expected)
    order = np.random.default_rng(0).permutation(37)
    parts = [chunk_groups(tensor, data).floats().reshape(-1, 512) for _, data in row_chunks(tensor, order)]
    assert [len(part) for part in parts] == [2] * 18 + [1]
    assert np.array_equal(np.concatenate(parts), expected[order])


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


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("evil", [np.nan, np.inf])
def test_rejects_weights_that_are_not_finite(kind: str, evil: float) -> None:
    tensor, _ = make(kind)
    if kind == "MXFP4":
        tensor.data[3, 0] = 254 if np.isnan(evil) else 255  # the largest level times 2 ** 126 or 2 ** 127
    elif kind in DENSE_TYPES:
        layout = {"F32": "<f4", "BF16": "<u2", "F16": "<f2"}[kind]
        value = {"BF16": 0x7FC0 if np.isnan(evil) else 0x7F80}.get(kind, evil)
        tensor.data[3, : np.dtype(layout).itemsize] = np.frombuffer(np.array([value], layout).tobytes(), np.uint8)
    else:
        blocks = tensor.data.reshape(-1).view(BLOCK_TYPES[kind].fields)
        name = next(name for name in ("dmin", "m", "d") if name in (blocks.dtype.names or ()))
        blocks[name][-1] = evil
    with pytest.raises(InvalidModel, match="not finite"):
        dequantise(tensor)


@pytest.mark.parametrize(
    ("kind", "bits", "block"), [("Q4_0", 8, 16), ("Q3_K", 8, 16), ("Q8_0", 8, 16), ("Q4_0", 4, 16)]
)
def test_widened_blocks_are_the_same_weights(kind: str, bits: int, block: int) -> None:
    tensor, _ = make(kind)
    for _, data in row_chunks(tensor):
        blocks = convert(chunk_groups(tensor, data), exact_form(BLOCK_TYPES[kind]))
        wider = widen(blocks, bits, block)
        assert (wider.form.bits, wider.form.block) == (bits, block)
        assert wider.data.shape[1:] == (tensor.columns // block, block * bits // 8)
        np.testing.assert_array_equal(expand(wider), expand(blocks))
