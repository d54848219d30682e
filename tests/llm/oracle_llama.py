"""A llama-like decoder in plain numpy, straight from a GGUF file: what our graphs are compared with.

It shares no code with them. The `gguf` package reads and widens the weights, positions are rotated as each architecture
has it in the file (neighbours or halves), nothing is stacked or reordered, and attention is three lines of einsum.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np

_ROTATES_NEIGHBOURS = {"llama": True, "qwen2": False, "qwen3": False}


class Oracle:
    """A decoder that computes every prompt from its first token, by default in float64."""

    def __init__(self, path: Path, dtype: type[np.floating[Any]] = np.float64) -> None:
        reader = gguf.GGUFReader(path)
        self._fields = reader.fields
        self._architecture = str(self._fields["general.architecture"].contents())
        self._dtype = dtype
        self._weights = {
            tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            .reshape([int(size) for size in reversed(tensor.shape)])
            .astype(dtype)
            for tensor in reader.tensors
        }
        self._heads = int(self._key("attention.head_count"))
        self._kv_heads = int(self._key("attention.head_count_kv"))
        self._head_dim = int(self._key("attention.key_length", self._key("embedding_length") // self._heads))
        self._epsilon = float(self._key("attention.layer_norm_rms_epsilon"))

    def weight(self, name: str) -> np.ndarray:
        """A tensor of the file, widened."""
        return self._weights[name]

    def logits(self, ids: list[int]) -> np.ndarray:
        """Scores after each of the tokens, [tokens, vocabulary]."""
        return self.run(ids)[0]

    def run(self, ids: list[int]) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
        """Scores after each of the tokens, and each layer's keys (rotated) and values, [tokens, kv heads, head dim]."""
        w = self._weights
        x = w["token_embd.weight"][ids]
        cache = []
        for layer in range(int(self._key("block_count"))):
            prefix = f"blk.{layer}."
            attended, keys, values = self._attention(self._norm(x, f"{prefix}attn_norm.weight"), prefix)
            cache.append((keys, values))
            x = x + attended @ w[f"{prefix}attn_output.weight"].T
            y = self._norm(x, f"{prefix}ffn_norm.weight")
            gate = y @ w[f"{prefix}ffn_gate.weight"].T
            gated = gate / (1 + np.exp(-gate)) * (y @ w[f"{prefix}ffn_up.weight"].T)
            x = x + gated @ w[f"{prefix}ffn_down.weight"].T
        head = w.get("output.weight", w["token_embd.weight"])
        return self._norm(x, "output_norm.weight") @ head.T, cache

    def greedy(self, ids: list[int], count: int) -> list[int]:
        """The tokens that follow, each the likeliest."""
        everything = list(ids)
        for _ in range(count):
            everything.append(int(self.logits(everything)[-1].argmax()))
        return everything[len(ids) :]

    def _attention(self, x: np.ndarray, prefix: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        tokens, group = len(x), self._heads // self._kv_heads
        q, k, v = (self._project(x, f"{prefix}attn_{part}") for part in "qkv")
        q, k, v = (part.reshape(tokens, -1, self._head_dim) for part in (q, k, v))
        if f"{prefix}attn_q_norm.weight" in self._weights:
            q, k = self._norm(q, f"{prefix}attn_q_norm.weight"), self._norm(k, f"{prefix}attn_k_norm.weight")
        q, k = self._rotate(q), self._rotate(k)
        scores = np.einsum("qhd,khd->hqk", q, k.repeat(group, axis=1)) / np.sqrt(self._head_dim)
        scores = np.where(np.tri(tokens, dtype=bool), scores, -np.inf)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        attended = np.einsum("hqk,khd->qhd", weights, v.repeat(group, axis=1))
        return attended.reshape(tokens, -1), k, v

    def _project(self, x: np.ndarray, name: str) -> np.ndarray:
        y: np.ndarray = x @ self._weights[f"{name}.weight"].T
        return y + self._weights[f"{name}.bias"] if f"{name}.bias" in self._weights else y

    def _rotate(self, x: np.ndarray) -> np.ndarray:
        """Turn pairs of [tokens, heads, head dim] as complex numbers, by position times frequency."""
        base = float(self._key("rope.freq_base", 10000.0))
        frequencies = base ** (-np.arange(0, self._head_dim, 2) / self._head_dim)
        if "rope_freqs.weight" in self._weights:
            frequencies = frequencies / self._weights["rope_freqs.weight"]
        turns = np.exp(1j * np.arange(len(x))[:, None, None] * frequencies)
        result = np.empty_like(x)
        half = self._head_dim // 2
        neighbours = _ROTATES_NEIGHBOURS[self._architecture]
        first, second = (slice(0, None, 2), slice(1, None, 2)) if neighbours else (slice(0, half), slice(half, None))
        turned = (x[..., first] + 1j * x[..., second]) * turns
        result[..., first], result[..., second] = turned.real, turned.imag
        return result

    def _norm(self, x: np.ndarray, name: str) -> np.ndarray:
        scaled: np.ndarray = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + self._epsilon)
        return scaled * self._weights[name]

    def _key(self, key: str, default: Any = None) -> Any:
        field = self._fields.get(f"{self._architecture}.{key}")
        return default if field is None else field.contents()


def mean_kl(reference: np.ndarray, other: np.ndarray) -> float:
    """Mean of the divergence of `other` from `reference`, both scores [tokens, vocabulary]: nats a token."""
    p, q = log_softmax(reference), log_softmax(other)
    return float((np.exp(p) * (p - q)).sum(axis=-1).mean())


def log_softmax(scores: np.ndarray) -> np.ndarray:
    """Logarithms of probabilities, float64."""
    shifted = scores.astype(np.float64) - scores.max(axis=-1, keepdims=True)
    result: np.ndarray = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result
