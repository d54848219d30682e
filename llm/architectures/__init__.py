"""Model architectures: one file in this folder per name that GGUF files have for them, with ``-`` written as ``_``.

Each has one function, ``read(keys) -> DecoderConfig``, which turns the file's metadata into the options that the graph
writers know. Sources are llama.cpp's files of the same names (``src/models/``), which define these formats.
"""

from __future__ import annotations

import difflib
import pkgutil
from importlib import import_module

from trisect.runtime.errors import UnsupportedModel

from ..gguf.architecture_metadata import ArchitectureMetadata
from ..gguf.decoder_metadata import check_tensors
from ..gguf.gguf_reader import GgufFile, GgufHeader
from ..graphs.decoder_config import DecoderConfig
from ..running.kv_layer import KvLayer

_KINDS_OF_LAYERS = {
    "experts": ("qwen2moe", "granitemoe", "olmoe", "phimoe", "deepseek2", "llama4"),
    "gated delta or state-space layers": ("qwen3next", "qwen35moe", "mamba", "mamba2", "granitehybrid"),
    "embeddings per layer": ("gemma3n",),
    "heads of another size in its layers with full attention": ("gemma4",),
}
"""What known architectures have that the graph writers do not."""


def architectures() -> tuple[str, ...]:
    """Return GGUF's names of the supported architectures.

    Examples
    --------
    >>> "gemma3" in architectures()
    True
    """
    return tuple(sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__)))


def unsupported_architecture(name: object) -> str:
    """Return why an architecture is refused: what is supported, the most similar names first.

    Examples
    --------
    >>> unsupported_architecture("qwen2moe")[:72]
    "the architecture 'qwen2moe' is not supported, since it has experts; simi"
    """
    known = architectures()
    near = difflib.get_close_matches(str(name)[:80], known, n=3, cutoff=0.7)
    similar = f"similar: {', '.join(near)}; " if near else ""
    rest = [other for other in known if other not in near]
    shown = str(name)[:80] if isinstance(name, str) else name
    plain = str(name)[:80].replace("_", "").removesuffix("text")  # qwen2_moe in config.json is qwen2moe in GGUF files
    kinds = [kind for kind, names in _KINDS_OF_LAYERS.items() if plain in names]
    why = f", since it has {kinds[0]}" if kinds else ""
    return f"the architecture {shown!r} is not supported{why}; {similar}supported are {', '.join([*near, *rest])}"


def read_config(file: GgufFile) -> DecoderConfig:
    """Read the configuration of a GGUF model, and check its tensors against it.

    Raises
    ------
    UnsupportedModel
        For an unsupported architecture, kind of layer or position scaling, with its name.
    InvalidModel
        If metadata or tensors are missing or inconsistent.
    """
    keys, config = _read(file)
    check_tensors(keys, config)
    return config


def read_kv_layers(header: GgufHeader) -> tuple[KvLayer, ...]:
    """Return what each layer of a model keeps in the KV cache, from the header of its file alone.

    Raises
    ------
    UnsupportedModel, InvalidModel
        As `read_config`, for the metadata.
    """
    return _read(header.layout)[1].kv_layers


def _read(file: GgufFile) -> tuple[ArchitectureMetadata, DecoderConfig]:
    name = file.metadata.get("general.architecture")
    if not isinstance(name, str) or name not in architectures():
        reason, _, remedy = unsupported_architecture(name).partition("; ")
        raise UnsupportedModel(f"{file.path.name}: {reason}", remedy=remedy)
    keys = ArchitectureMetadata(file, name)
    config: DecoderConfig = import_module(f".{name.replace('-', '_')}", __package__).read(keys)
    return keys, config
