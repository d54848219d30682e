"""Writes tiny GGUF models with random weights, through the `gguf` package: a writer independent of our reader."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf.quants import dequantize, quantize

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
MERGES = [
    "Ġ t",
    "h e",
    "i n",
    "Ġ a",
    "Ġt he",
    "r e",
    "o n",
    "Ġ Ġ",
    "e r",
    "l l",
    "ll o",
    "he llo",
    "Ġ hello",
    "1 2",
    "12 3",
]
PIECES = ["▁t", "he", "in", "▁a", "▁the", "re", "on", "▁▁", "er", "ll", "llo", "hello", "▁hello", "12", "123", "世界"]
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def byte_characters() -> list[str]:
    """The 256 characters that byte-level BPE writes bytes as, in the order of the bytes."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = iter(range(256, 512))
    return [chr(byte) if byte in shown else chr(next(hidden)) for byte in range(256)]


def byte_level_vocabulary(size: int, pre: str) -> dict[str, Any]:
    """Tokenizer metadata of the kind ``gpt2``: 4 of markup, 256 bytes, a few merges, unused ones up to `size`."""
    markup = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<whole>"]
    tokens = [*markup, *byte_characters(), *(merge.replace(" ", "") for merge in MERGES)]
    kinds = [CONTROL, CONTROL, CONTROL, USER_DEFINED] + [NORMAL] * (len(tokens) - 4) + [UNUSED] * (size - len(tokens))
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens + [f"[PAD{i}]" for i in range(len(tokens), size)],
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": MERGES,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.chat_template": TEMPLATE,
    }


def sentencepiece_vocabulary(size: int) -> dict[str, Any]:
    """Tokenizer metadata of the kind ``llama``: 3 of markup, 256 bytes, letters, pieces, unused ones up to `size`."""
    letters = [c for c in "▁abcdefghijklmnopqrstuvwxyz0123456789.,!é世界" if c not in PIECES]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *PIECES, *letters]
    kinds = (
        [UNKNOWN, CONTROL, CONTROL] + [BYTE] * 256 + [NORMAL] * (len(tokens) - 259) + [UNUSED] * (size - len(tokens))
    )
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens + [f"[PAD{i}]" for i in range(len(tokens), size)],
        "tokenizer.ggml.scores": [0.0] * 259 + [-float(i) for i in range(size - 259)],
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }


def write_tiny_gguf(
    path: Path,
    arch: str = "llama",
    quant: str = "Q4_1",
    layers: int = 2,
    hidden: int = 64,
    heads: int = 4,
    kv_heads: int = 2,
    ffn: int = 96,
    vocab: int = 384,
    seed: int = 0,
    *,
    tied: bool = True,
    pre: str = "smollm",
    metadata: Mapping[str, Any] | None = None,
    tensors: Mapping[str, np.ndarray | None] | None = None,
    kinds: Mapping[str, str] | None = None,
) -> Path:
    """Write a model of random weights.

    Parameters
    ----------
    arch : str
        ``llama``, ``qwen2``, ``qwen3`` or ``mistral``: the last is a llama with a SentencePiece vocabulary.
    quant : str
        Type of the matrices; the embedding is Q8_0 where this is Q4_0 or Q4_1, as llama.cpp has it.
    metadata, tensors : mapping
        Entries to add or replace, None to leave one out; tensors are written as float32.
    kinds : mapping
        Type of some tensors, by what their names end in; also of those in `tensors`.
    """
    name = "llama" if arch == "mistral" else arch
    head_dim = hidden // heads
    entries: dict[str, Any] = {
        "general.name": f"tiny {arch}",
        f"{name}.block_count": layers,
        f"{name}.context_length": 256,
        f"{name}.embedding_length": hidden,
        f"{name}.feed_forward_length": ffn,
        f"{name}.attention.head_count": heads,
        f"{name}.attention.head_count_kv": kv_heads,
        f"{name}.attention.layer_norm_rms_epsilon": 1e-5,
        f"{name}.rope.freq_base": 10000.0,
        f"{name}.rope.dimension_count": head_dim,
        **(sentencepiece_vocabulary(vocab) if arch == "mistral" else byte_level_vocabulary(vocab, pre)),
        **(metadata or {}),
    }
    writer = gguf.GGUFWriter(path, name)
    for key, value in entries.items():
        if value is not None:
            _add(writer, key, value)
    weights = _weights(name, layers, hidden, heads * head_dim, kv_heads * head_dim, head_dim, ffn, vocab, tied, seed)
    plain = dict(tensors or {})
    embedding = "Q8_0" if quant in ("Q4_0", "Q4_1") else quant
    for key, array in weights.items():
        if key not in plain:
            kind = "F32" if array.ndim == 1 else embedding if key == "token_embd.weight" else quant
            kind = next((other for end, other in (kinds or {}).items() if key.endswith(end)), kind)
            writer.add_tensor(key, _stored(array, kind), raw_dtype=gguf.GGMLQuantizationType[kind])
    for key, replacement in plain.items():
        if replacement is not None:
            kind = next((other for end, other in (kinds or {}).items() if key.endswith(end)), "F32")
            stored = _stored(replacement.astype(np.float32), kind)
            writer.add_tensor(key, stored, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _stored(array: np.ndarray, kind: str) -> np.ndarray:
    """Quantise; where the `gguf` package cannot, return random blocks of weights that are about as large."""
    kind_id = gguf.GGMLQuantizationType[kind]
    if array.ndim == 3:
        return np.stack([_stored(matrix, kind) for matrix in array])
    try:
        return quantize(array, kind_id)
    except NotImplementedError:
        seed = int(array.view(np.uint32).sum(dtype=np.uint32))
        at_one = dequantize(random_blocks(kind, *array.shape, seed, magnitudes=(0, 0)), kind_id)
        power = float(np.log10(array.std() / at_one.std()))
        return random_blocks(kind, *array.shape, seed, magnitudes=(power, power))


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def _weights(
    arch: str,
    layers: int,
    hidden: int,
    queries: int,
    keys: int,
    head_dim: int,
    ffn: int,
    vocab: int,
    tied: bool,
    seed: int,
) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)

    def matrix(rows: int, columns: int) -> np.ndarray:
        return generator.normal(0, 0.1, (rows, columns)).astype(np.float32)

    def near(middle: float, size: int) -> np.ndarray:
        return generator.normal(middle, 0.1, size).astype(np.float32)

    weights = {"token_embd.weight": matrix(vocab, hidden), "output_norm.weight": near(1, hidden)}
    if not tied:
        weights["output.weight"] = matrix(vocab, hidden)
    for i in range(layers):
        block = {
            "attn_norm.weight": near(1, hidden),
            "attn_q.weight": matrix(queries, hidden),
            "attn_k.weight": matrix(keys, hidden),
            "attn_v.weight": matrix(keys, hidden),
            "attn_output.weight": matrix(hidden, queries),
            "ffn_norm.weight": near(1, hidden),
            "ffn_gate.weight": matrix(ffn, hidden),
            "ffn_up.weight": matrix(ffn, hidden),
            "ffn_down.weight": matrix(hidden, ffn),
        }
        if arch == "qwen2":
            block |= {f"attn_{n}.bias": near(0, s) for n, s in (("q", queries), ("k", keys), ("v", keys))}
        if arch == "qwen3":
            block |= {f"attn_{n}_norm.weight": near(1, head_dim) for n in "qk"}
        weights |= {f"blk.{i}.{key}": array for key, array in block.items()}
    return weights


ALL_MAGNITUDES = (-7.0, 4.0)
"""Powers of ten of scales that float16 can hold."""
_SCALES_AT = {
    "Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,),
    "Q4_1": (0, 2), "Q5_1": (0, 2), "Q4_K": (0, 2), "Q5_K": (0, 2),
}  # fmt: skip
"""Positions of the float16 scales in a block, where that is not 0 alone."""


def random_blocks(
    kind: str, rows: int, columns: int, seed: int = 0, *, magnitudes: tuple[float, float] = ALL_MAGNITUDES
) -> np.ndarray:
    """Random bytes of a tensor type, uint8 [rows, bytes of a row], whose scales have powers of ten in a range."""
    generator = np.random.default_rng(seed)
    weights, size_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    if kind in ("F32", "F16", "BF16"):
        values = generator.normal(0, 1, (rows, columns)) * 10.0 ** generator.uniform(*magnitudes, (rows, 1))
        return np.ascontiguousarray(quantize(values.astype(np.float32), gguf.GGMLQuantizationType[kind])).view(np.uint8)
    blocks = generator.integers(0, 256, (rows * columns // weights, size_bytes), dtype=np.uint8)
    if kind == "MXFP4":
        blocks[:, 0] = np.round(128 + generator.uniform(*magnitudes, len(blocks)) * 3.32)
        blocks[:2, 0] = (0, 240) if magnitudes == ALL_MAGNITUDES else blocks[:2, 0]
        return blocks.reshape(rows, -1)
    for start in _SCALES_AT.get(kind, (0,)):
        scales = generator.choice([1, -1], len(blocks)) * 10.0 ** generator.uniform(*magnitudes, len(blocks))
        if magnitudes == ALL_MAGNITUDES:
            scales[:2] = 0, 65504
        blocks[:, start : start + 2] = scales.astype("<f2").view(np.uint8).reshape(-1, 2)
    return blocks.reshape(rows, -1)
