"""Describes a language model from a GGUF header, a ``config.json``, or only the names of its files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from trisect.llm.architectures import architectures, read_kv_layers, unsupported_architecture
from trisect.llm.gguf.block_types import BLOCK_BYTES
from trisect.llm.gguf.gguf_reader import GgufHeader
from trisect.llm.importing.folder_config import CONFIG_FILE, GENAI_FILE, choose_gguf, choose_graph, weight_files
from trisect.llm.importing.transformers_config import MODEL_TYPES
from trisect.llm.importing.weight_conversion import expected_forms
from trisect.llm.phases.model_memory import ModelSizes
from trisect.llm.running.kv_layer import KvLayer, cached_window, equal_layers
from trisect.llm.tokenization.tokenizer import TOKENIZER_FILE
from trisect.runtime.errors import InvalidInput, InvalidModel, UnsupportedModel

from .model_description import ModelDescription, read_json, whole_number

_BITS = {
    "fp32": 32.0, "f32": 32.0, "float32": 32.0, "bf16": 16.0, "bfloat16": 16.0, "fp16": 16.0, "f16": 16.0,
    "float16": 16.0, "q8_0": 8.5, "int8": 8.25, "uint8": 8.25, "quantized": 8.25, "q6_k": 6.5625, "q5_k": 5.5,
    "q5_0": 5.5, "q5_1": 6.0, "q4_k": 4.5, "q4_0": 4.5, "q4_1": 5.0, "int4": 4.5, "q4f16": 4.5, "q4": 4.5,
    "iq4_nl": 4.5, "iq4_xs": 4.25, "mxfp4": 4.25, "bnb4": 4.5, "awq": 4.25, "gptq": 4.25, "q3_k": 3.4375, "q2_k": 2.625,
}  # fmt: skip
"""Quantisation as named in file names and tags -> bits of a weight, scales included."""
_PARAMETERS = re.compile(r"(?<![a-z0-9.])(\d{1,4}(?:\.\d{1,3})?)([mbt])(?![a-z])", re.IGNORECASE)
_UNITS = {"m": 10**6, "b": 10**9, "t": 10**12}
_MAX_NAMES, _MAX_NAME_LENGTH = 10_000, 1000
_MAX_LAYERS = 4096
_CONTEXT_MAX_TOKENS = 1 << 20
"""Where a file does not state the model's."""
_ONNX_KINDS = ("decoder", "gpt2", "phi", "smollm")
"""Architectures whose exported graphs are known to be imported, besides those of `MODEL_TYPES`."""


def from_gguf(path: Path) -> ModelDescription:
    """Describe a GGUF file, or its first few megabytes."""
    header = GgufHeader.read(path)
    metadata = header.metadata
    architecture = str(metadata.get("general.architecture", "?"))[:80]

    def number(key: str, default: int = 0) -> int:
        value = metadata.get(f"{architecture}.{key}", default)
        return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 31 else default

    heads = number("attention.head_count")
    head_dim = number("attention.key_length") or number("embedding_length") // max(heads, 1)
    cache = 4 * number("block_count") * number("attention.head_count_kv", heads) * head_dim
    unsupported = [name for name in header.types if name not in BLOCK_BYTES]
    refused = ""
    if architecture not in architectures():
        refused = unsupported_architecture(architecture)
    elif unsupported:
        refused = f"unsupported tensor type {', '.join(unsupported)}; supported: {', '.join(BLOCK_BYTES)}"
    weight_bytes = sum(header.types.values())
    context_length = number("context_length") or None
    kv_heads = number("attention.head_count_kv", heads)
    experts = max(1, number("expert_used_count"))
    ffn = number("expert_feed_forward_length") or number("feed_forward_length")
    is_sized = number("block_count") <= _MAX_LAYERS and cache > 0 and not unsupported
    try:
        kv_layers = read_kv_layers(header)
    except (InvalidModel, UnsupportedModel):  # the import will tell; what follows is an upper bound
        kv_layers = equal_layers(number("block_count") if is_sized else 0, kv_heads, head_dim)
    sizes = ModelSizes(
        weights_bytes=weight_bytes,
        kv_layers=kv_layers,
        context_length=context_length or _CONTEXT_MAX_TOKENS,
        forms=expected_forms(header.types),
        layer_values=2 * number("embedding_length") + (heads + 2 * kv_heads) * head_dim + 3 * ffn * experts,
    )
    return ModelDescription(
        kind="GGUF header",
        name=str(metadata.get("general.name", path.stem))[:200],
        confidence="medium",
        is_language_model=True,
        weight_bytes=weight_bytes,
        decode_bytes=weight_bytes,
        parameters=header.parameters,
        cache_bytes_per_token=cache or None,
        sizes=sizes if is_sized else None,
        context_length=context_length,
        refused=refused,
    )


def from_folder(folder: Path) -> ModelDescription:
    """Describe a folder, as on a hub or on disk, from its configuration and the sizes of its files."""
    files: dict[str, int | None] = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            files[file.relative_to(folder).as_posix()] = file.stat().st_size
        if len(files) > _MAX_NAMES:
            raise InvalidModel(f"{folder} contains more than {_MAX_NAMES} files", remedy="pass the model's own folder")
    document: dict[str, Any] = {"name": folder.name, "files": files}
    named = next((name for name in (CONFIG_FILE, GENAI_FILE) if name in files), None)
    if named is not None:
        document["config"] = read_json(folder / named)
    return from_metadata(document)


def from_config(config: Mapping[str, Any], name: str) -> ModelDescription:
    """Describe a model from its ``config.json`` alone."""
    return from_metadata({"name": name, "config": config})


def from_metadata(metadata: Mapping[str, Any]) -> ModelDescription:
    """Describe a model from a hub's metadata: ``name``, ``files``, ``tags``, ``config``.

    Raises
    ------
    InvalidInput
        For metadata without any of these.
    InvalidModel
        For malformed entries.
    """
    name = _text(metadata.get("name", ""))
    files = _files(metadata.get("files", ()))
    tags = [_text(tag) for tag in _list(metadata.get("tags", ()))]
    config = metadata.get("config")
    if config is not None and not isinstance(config, Mapping):
        raise InvalidModel("config: expected an object", remedy="pass the contents of config.json")
    if not (name or files or tags or config):
        raise InvalidInput("no metadata of the model", remedy="pass name, files, tags or config")
    sizes = _sizes(config) if config else {}
    words = [name, *files, *tags]
    parameters = sizes.get("parameters") or _parameters_in_names(words)
    file = _choose_file(files)
    bits = _bits_in_names([*([file] if file else []), *tags, name])
    weight_bytes = _size_of(files, file)
    notes: list[str] = []
    if weight_bytes is None and parameters is not None:
        bits = bits or _config_bits(config) or 16.0
        weight_bytes = int(parameters * bits / 8)
        notes.append(f"assumed {bits:g} bits per weight")
    architecture = sizes.get("architecture")
    refused = ""
    if architecture is not None and not _is_supported(str(architecture)):
        refused = unsupported_architecture(architecture)
    elif files and file is None:
        refused = "none of the files is an ONNX graph or a GGUF file, or weights beside a tokenizer.json"
    return ModelDescription(
        kind="config.json" if config else "file names" if files else "name and tags",
        name=name or "the model",
        confidence="medium" if config else "low",
        is_language_model=True,
        weight_bytes=weight_bytes,
        decode_bytes=weight_bytes,
        parameters=parameters,
        cache_bytes_per_token=sizes.get("cache"),
        sizes=_memory_sizes(sizes, weight_bytes),
        context_length=sizes.get("context"),
        refused=refused,
        notes=tuple(notes),
    )


def _sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return architecture, parameters, KV cache bytes per token, and context length of a decoder's configuration."""
    inner = config.get("text_config")
    model = inner if isinstance(inner, Mapping) else config
    genai = model.get("model")
    if isinstance(genai, Mapping):  # onnxruntime-genai's
        decoder = genai.get("decoder")
        model = {**genai, **(decoder if isinstance(decoder, Mapping) else {}), "model_type": genai.get("type", "")}
    hidden = whole_number(model, ("hidden_size", "n_embd", "d_model"), 1 << 20)
    layers = whole_number(model, ("num_hidden_layers", "n_layer"), 4096)
    heads = whole_number(model, ("num_attention_heads", "n_head"), 1 << 14)
    if hidden is None or layers is None or heads is None:
        return {"architecture": _architecture(model)} if _architecture(model) else {}
    kv_heads = whole_number(model, ("num_key_value_heads",), 1 << 14) or heads
    head_dim = whole_number(model, ("head_dim", "head_size"), 1 << 14) or hidden // heads
    ffn = whole_number(model, ("intermediate_size", "n_inner"), 1 << 24) or 4 * hidden
    vocab = whole_number(model, ("vocab_size",), 1 << 31) or 0
    tied = model.get("tie_word_embeddings", config.get("tie_word_embeddings", False)) is True
    attention = hidden * head_dim * (2 * heads + 2 * kv_heads)
    parameters = layers * (attention + 3 * hidden * ffn) + vocab * hidden * (1 if tied else 2)
    return {
        "architecture": _architecture(model),
        "parameters": parameters,
        "cache": 4 * layers * kv_heads * head_dim,
        "kv_layers": _kv_layers(model, equal_layers(layers, kv_heads, head_dim)),
        "layer_values": 2 * hidden + (heads + 2 * kv_heads) * head_dim + 3 * ffn,
        "context": whole_number(model, ("max_position_embeddings", "n_positions", "context_length"), 1 << 31),
    }


def _kv_layers(model: Mapping[str, Any], layers: tuple[KvLayer, ...]) -> tuple[KvLayer, ...]:
    """Return what layers keep in the KV cache, with the sliding windows of those that a configuration names."""
    window = whole_number(model, ("sliding_window",), 1 << 31)
    context = whole_number(model, ("max_position_embeddings",), 1 << 31)
    kinds = model.get("layer_types")
    if not window or not isinstance(kinds, list) or len(kinds) != len(layers):
        return layers
    held = cached_window(window, context or _CONTEXT_MAX_TOKENS)
    return tuple(
        replace(layer, window=held if kind == "sliding_attention" else None)
        for layer, kind in zip(layers, kinds, strict=True)
    )


def _memory_sizes(sizes: Mapping[str, Any], weight_bytes: int | None) -> ModelSizes | None:
    """Return what the memory depends on, if the configuration states it: the forms of weights stay unknown."""
    if weight_bytes is None or "kv_layers" not in sizes:
        return None
    return ModelSizes(
        weights_bytes=weight_bytes,
        kv_layers=sizes["kv_layers"],
        context_length=sizes["context"] or _CONTEXT_MAX_TOKENS,
        layer_values=sizes["layer_values"],
    )


def _architecture(model: Mapping[str, Any]) -> str | None:
    kind = model.get("model_type")
    return _text(kind) if isinstance(kind, str) and kind else None


def _is_supported(architecture: str) -> bool:
    plain = architecture.lower()
    return plain in MODEL_TYPES or plain in _ONNX_KINDS


def _config_bits(config: object) -> float | None:
    if not isinstance(config, Mapping):
        return None
    quantisation = config.get("quantization_config")
    if isinstance(quantisation, Mapping) and quantisation.get("bits") in (2, 3, 4, 8):
        return float(quantisation["bits"]) + 0.25
    return _BITS.get(str(config.get("torch_dtype", config.get("dtype", ""))).lower())


def _parameters_in_names(words: list[str]) -> int | None:
    """Return the number of parameters that a name mentions, such as ``7b``."""
    for word in words:
        if match := _PARAMETERS.search(word):
            return int(float(match[1]) * _UNITS[match[2].lower()])
    return None


def _bits_in_names(words: list[str]) -> float | None:
    """Return the bits per weight of the quantisation that a name mentions."""
    for word in words:
        plain = word.lower()
        for tag, bits in _BITS.items():
            if re.search(rf"(?<![a-z0-9]){re.escape(tag)}(?![0-9])", plain):
                return bits
    return None


def _choose_file(files: Mapping[str, int | None]) -> str | None:
    """Return the file that trisect would import."""
    weights = weight_files(files) if {CONFIG_FILE, TOKENIZER_FILE} <= files.keys() else []
    return choose_graph(files) or next(iter(weights), None) or choose_gguf(files)


def _size_of(files: Mapping[str, int | None], file: str | None) -> int | None:
    """Return the bytes of a file with its external data."""
    if file is None or files[file] is None:
        return None
    if file in (parts := weight_files(files)):
        return sum(files[part] or 0 for part in parts)
    external = [size for name, size in files.items() if name.startswith(f"{file}_data") or name == f"{file}.data"]
    return sum(size for size in (files[file], *external) if size is not None)


def _files(files: object) -> dict[str, int | None]:
    if isinstance(files, Mapping):
        sized = {_text(name): size for name, size in files.items()}
        for name, size in sized.items():
            if size is not None and (isinstance(size, bool) or not isinstance(size, int) or not 0 <= size < 1 << 50):
                raise InvalidModel(
                    f"size of file {name!r}: expected bytes, got {str(size)[:40]!r}", remedy="check the metadata"
                )
        return sized
    return {_text(name): None for name in _list(files)}


def _list(value: object) -> list[Any]:
    if isinstance(value, str | bytes) or not hasattr(value, "__iter__"):
        raise InvalidModel(f"{str(value)[:40]!r}: expected a list of names", remedy="check the metadata")
    names = list(value)
    if len(names) > _MAX_NAMES:
        raise InvalidModel(f"{len(names)} names: expected at most {_MAX_NAMES}", remedy="check the metadata")
    return names


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > _MAX_NAME_LENGTH:
        raise InvalidModel(
            f"{str(value)[:40]!r}: expected a name of at most {_MAX_NAME_LENGTH} characters",
            remedy="check the metadata",
        )
    return value
