"""Writes a GGUF file of a real model's shape with random weights: what speed and memory depend on, not the answers.

python -m trisect.bench.llm.random_gguf Q4_K_M 1b.gguf
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trisect.llm.gguf.block_types import BLOCK_TYPES

LAYERS, HIDDEN, HEADS, KV_HEADS, FFN, VOCAB = 16, 2048, 32, 8, 8192, 128_256
"""Shape of Llama 3.2 1B."""
_CHUNK_ROWS = 1024
_ALIGNMENT_BYTES = 32
_SCALE_EXPONENTS = (-4.2, -3.8)
"""Powers of ten of a block's scale: weights of about the size of a real model's."""
_TYPE_IDS = {"Q4_0": 2, "Q4_K": 12, "Q6_K": 14}
"""Numbers of types, from ggml.h; the layout of the file is that of ``docs/gguf.md`` in the same repository."""


def tensor_types(quant: str) -> dict[str, tuple[int, int, str]]:
    """Return rows, columns and type of each matrix, as llama.cpp's quantisation ``Q4_0`` or ``Q4_K_M`` chooses them."""
    kv = HIDDEN // HEADS * KV_HEADS
    plain = "Q4_0" if quant == "Q4_0" else "Q4_K"
    types = {"token_embd": (VOCAB, HIDDEN, "Q6_K")}
    for index in range(LAYERS):
        more_bits = "Q6_K" if quant == "Q4_K_M" and (index < 2 or index >= 14 or index % 3 == 1) else plain
        shapes = {
            "attn_q": (HIDDEN, HIDDEN, plain),
            "attn_k": (kv, HIDDEN, plain),
            "attn_v": (kv, HIDDEN, more_bits),
            "attn_output": (HIDDEN, HIDDEN, plain),
            "ffn_gate": (FFN, HIDDEN, plain),
            "ffn_up": (FFN, HIDDEN, plain),
            "ffn_down": (HIDDEN, FFN, more_bits),
        }
        types |= {f"blk.{index}.{name}": shape for name, shape in shapes.items()}
    return {f"{name}.weight": shape for name, shape in types.items()}


def write_random_gguf(path: Path, quant: str) -> Path:
    """Write the file, a few rows at a time."""
    norms = ["output_norm", *(f"blk.{index}.{part}_norm" for index in range(LAYERS) for part in ("attn", "ffn"))]
    matrices = tensor_types(quant)
    infos: list[bytes] = []
    offset = 0
    for name in norms:
        infos.append(_string(f"{name}.weight") + struct.pack("<IQIQ", 1, HIDDEN, 0, offset))
        offset += HIDDEN * 4
    for name, (rows, columns, kind) in matrices.items():
        infos.append(_string(name) + struct.pack("<IQQIQ", 2, columns, rows, _TYPE_IDS[kind], offset))
        offset += _aligned(rows * columns // BLOCK_TYPES[kind].weights * BLOCK_TYPES[kind].size_bytes)
    entries = [_string(key) + _value(value) for key, value in _metadata().items()]
    header = struct.pack("<4sIQQ", b"GGUF", 3, len(infos), len(entries)) + b"".join([*entries, *infos])
    generator = np.random.default_rng(0)
    with path.open("wb") as file:
        file.write(header.ljust(_aligned(len(header)), b"\0"))
        for _ in norms:
            file.write(np.ones(HIDDEN, np.float32).tobytes())
        for rows, columns, kind in matrices.values():
            start = file.tell()
            for row in range(0, rows, _CHUNK_ROWS):
                blocks = min(_CHUNK_ROWS, rows - row) * columns // BLOCK_TYPES[kind].weights
                file.write(_random_blocks(kind, blocks, generator).tobytes())
            file.write(b"\0" * (_aligned(file.tell() - start) - (file.tell() - start)))
    return path


def _aligned(size_bytes: int) -> int:
    return size_bytes + -size_bytes % _ALIGNMENT_BYTES


def _string(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def _value(value: Any) -> bytes:
    """Return a value of the metadata with its type before it; lists are of strings or of int32."""
    if isinstance(value, str):
        return struct.pack("<I", 8) + _string(value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    kind, items = (8, map(_string, value)) if isinstance(value[0], str) else (5, (struct.pack("<i", i) for i in value))
    return struct.pack("<IIQ", 9, kind, len(value)) + b"".join(items)


def _metadata() -> Mapping[str, Any]:
    """The model's sizes, and a byte-level vocabulary with a few merges, padded with unused tokens."""
    # The characters that stand for bytes in GPT-2's vocabulary.
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [chr(256 + index) for index in range(256 - len(shown))]
    merges = ["h e", "i n", "o n", "r e"]
    tokens = ["<|endoftext|>", *map(chr, shown), *hidden, *(merge.replace(" ", "") for merge in merges)]
    return {
        "general.architecture": "llama",
        "llama.block_count": LAYERS,
        "llama.context_length": 8192,
        "llama.embedding_length": HIDDEN,
        "llama.feed_forward_length": FFN,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": KV_HEADS,
        "llama.rope.dimension_count": HIDDEN // HEADS,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 500_000.0,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens + [f"[PAD{index}]" for index in range(len(tokens), VOCAB)],
        "tokenizer.ggml.token_type": [3] + [1] * (len(tokens) - 1) + [5] * (VOCAB - len(tokens)),
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 0,
    }


def _random_blocks(kind: str, count: int, generator: np.random.Generator) -> np.ndarray:
    """Return blocks of random bits with scales of either sign."""
    block = BLOCK_TYPES[kind]
    blocks = generator.integers(0, 256, (count, block.size_bytes), np.uint8).view(block.fields)[:, 0]
    for name in ("d", "dmin"):
        if name in (block.fields.names or ()):
            sign = generator.choice([1, -1], count)
            blocks[name] = sign * 10.0 ** generator.uniform(*_SCALE_EXPONENTS, count)
    return blocks


if __name__ == "__main__":
    print(write_random_gguf(Path(sys.argv[2]), sys.argv[1]).stat().st_size)
