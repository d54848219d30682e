"""A language model on disk, ready to run: graphs, weights, tokenizer, and one file that says what is what.

A bundle is made by an importer from a GGUF file or another tool's folder. It holds one or more ONNX graphs of the same
model over one weights file; a device takes the graph that was made for its engine, else the first that any engine runs.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import msgspec

from trisect.runtime.errors import InvalidModel

from .running.kv_cache import cache_bytes_per_token

BUNDLE_FILE = "bundle.json"
VERSION = 1
_MOST = {"layers": 1 << 12, "kv_heads": 1 << 14, "head_dim": 1 << 14, "vocab": 1 << 24, "context_length": 1 << 31}
"""More than any model has: memory is allocated by these sizes, so a damaged file must not choose them."""

Cache = Literal["in-place", "grown"]
"""How a graph keeps the KV cache: one buffer read and extended in place, or past in and present out."""


@dataclass(frozen=True)
class PhaseGraph:
    """One ONNX graph of the model."""

    file: str
    cache: Cache
    engines: tuple[str, ...] = ()
    """Engines that it was made for; empty = any."""
    fresh: bool = False
    """True where outputs ``fresh.N.key/value`` hold what one run adds to the cache."""
    scale_group: int | None = None
    """How many inputs of a product may share a scale where an engine rounds them to 8 bits; None = the engine's own
    choice."""


@dataclass(frozen=True)
class Bundle:
    """What a language model's folder holds.

    The graphs' inputs and outputs have the names that Hugging Face's exporters use: ``input_ids``, where wanted
    ``position_ids`` and ``attention_mask``, or ``seqlens_k`` and ``total_sequence_length``;
    ``past_key_values.N.key/value`` [1, kv heads, tokens, head dim]; ``logits`` of the last token;
    ``present.N.key/value``.
    """

    version: int
    name: str
    source: str
    """File or folder that it was imported from."""
    source_sha256: str
    importer: str
    """Version of the importer's output; another one imports again."""
    layers: int
    kv_heads: int
    head_dim: int
    vocab: int
    context_length: int
    graphs: tuple[PhaseGraph, ...]
    weights_bytes: int
    flops_per_token: int
    """Of a token in the middle of a prompt, attention left out."""
    decode_bytes_per_token: int
    """Weights that computing one token reads."""
    notes: tuple[str, ...] = ()
    """What the user should know of the import."""
    folder: str = ""

    @classmethod
    def load(cls, folder: str | Path) -> Bundle:
        """Read a bundle's description and check that its files are there.

        Raises
        ------
        InvalidModel
            Where the folder is no bundle, or a file is missing or outside it.
        """
        folder = Path(folder)
        remedy = "import the model again"
        try:
            bundle = msgspec.json.decode((folder / BUNDLE_FILE).read_bytes(), type=cls)
        except FileNotFoundError as error:
            raise InvalidModel(f"{folder} holds no {BUNDLE_FILE}", remedy=remedy) from error
        except (OSError, ValueError) as error:
            raise InvalidModel(f"{folder / BUNDLE_FILE} cannot be read: {error}", remedy=remedy) from error
        if bundle.version != VERSION:
            raise InvalidModel(f"{folder} has bundle version {bundle.version}, not {VERSION}", remedy=remedy)
        sound = all(1 <= getattr(bundle, size) <= most for size, most in _MOST.items())
        if not bundle.graphs or not sound:
            raise InvalidModel(f"{folder / BUNDLE_FILE} describes no model", remedy=remedy)
        for graph in bundle.graphs:
            if Path(graph.file).name != graph.file or not (folder / graph.file).is_file():
                raise InvalidModel(f"{folder} lacks its graph {graph.file!r}", remedy=remedy)
        return replace(bundle, folder=str(folder))

    def save(self, folder: Path) -> None:
        """Write the description; last of all, since a folder with one counts as whole."""
        document = msgspec.to_builtins(self)
        del document["folder"]
        (folder / BUNDLE_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=1))

    def graph_for(self, engine: str) -> PhaseGraph:
        """The graph that a device of an engine runs.

        Raises
        ------
        InvalidModel
            Where every graph was made for other engines.
        """
        made_for_it = [graph for graph in self.graphs if engine in graph.engines]
        any_engine = [graph for graph in self.graphs if not graph.engines]
        if not made_for_it and not any_engine:
            raise InvalidModel(f"{self.name} has no graph that {engine} runs", remedy="choose another device")
        return (made_for_it or any_engine)[0]

    @property
    def cache_bytes_per_token(self) -> int:
        """Size of one token's keys and values as devices hand them over."""
        return cache_bytes_per_token(self.layers, self.kv_heads, self.head_dim)

    @property
    def key(self) -> str:
        """Names this content: profiles of it are kept under that."""
        text = f"{self.source_sha256}/{self.importer}/{self.version}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]
