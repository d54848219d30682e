"""Writes a GGUF file of a real model's shape with random blocks: to measure what importing and running one takes.

python -m tests.llm.large_gguf Q4_K_M /tmp/1b.gguf
"""

from __future__ import annotations

import sys
from pathlib import Path

import gguf
import numpy as np

from tests.llm.gguf_factory import byte_level_vocabulary, random_blocks

LAYERS, HIDDEN, HEADS, KV_HEADS, FFN, VOCAB = 16, 2048, 32, 8, 8192, 128_256
"""Shape of Llama 3.2 1B."""
_CHUNK_ROWS = 1024


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


def write_large_gguf(path: Path, quant: str) -> Path:
    """Write the file, a few rows at a time."""
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in {
        "block_count": LAYERS, "context_length": 8192, "embedding_length": HIDDEN, "feed_forward_length": FFN,
        "attention.head_count": HEADS, "attention.head_count_kv": KV_HEADS, "rope.dimension_count": HIDDEN // HEADS,
    }.items():  # fmt: skip
        writer.add_uint32(f"llama.{key}", value)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_float32("llama.rope.freq_base", 500_000.0)
    for key, value in byte_level_vocabulary(VOCAB, "smollm").items():
        add = writer.add_string if isinstance(value, str) else writer.add_uint32 if isinstance(value, int) else None
        (add or writer.add_array)(key, value)
    matrices = tensor_types(quant)
    norms = ["output_norm", *(f"blk.{index}.{part}_norm" for index in range(LAYERS) for part in ("attn", "ffn"))]
    for name in norms:
        writer.add_tensor_info(f"{name}.weight", (HIDDEN,), np.dtype(np.float32), HIDDEN * 4)
    for name, (rows, columns, kind) in matrices.items():
        kind_id = gguf.GGMLQuantizationType[kind]
        weights, size_bytes = gguf.GGML_QUANT_SIZES[kind_id]
        row_bytes = columns // weights * size_bytes
        writer.add_tensor_info(name, (rows, row_bytes), np.dtype(np.uint8), rows * row_bytes, raw_dtype=kind_id)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    alignment = 32
    with path.open("ab") as file:
        file.write(b"\0" * (-file.tell() % alignment))
        for _ in norms:
            file.write(np.ones(HIDDEN, np.float32).tobytes())
        for seed, (rows, columns, kind) in enumerate(matrices.values()):
            start = file.tell()
            for row in range(0, rows, _CHUNK_ROWS):
                count = min(_CHUNK_ROWS, rows - row)
                file.write(random_blocks(kind, count, columns, seed + row, magnitudes=(-4.2, -3.8)).tobytes())
            file.write(b"\0" * (-(file.tell() - start) % alignment))
    return path


if __name__ == "__main__":
    print(write_large_gguf(Path(sys.argv[2]), sys.argv[1]).stat().st_size)
