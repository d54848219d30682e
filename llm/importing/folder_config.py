"""Reads the configuration of other tools' model folders: sizes, tensor names, tokenizer and chat template.

There are two conventions. onnxruntime-genai has one file, ``genai_config.json``. transformers, and with it optimum and
transformers.js, has ``config.json`` and the ONNX file beside it or in ``onnx/``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trisect.runtime.errors import InvalidModel, UnsupportedModel
from trisect.runtime.untrusted_files import MalformedFile, parse_json, read_text

from ..tokenization.tokenizer import TOKENIZER_FILE, Prompting, Tokenizer

GENAI_FILE = "genai_config.json"
CONFIG_FILE = "config.json"
ONNX_FOLDERS = ("", "onnx")
VARIANTS = (
    *("model", "decoder_model_merged", "model_fp16", "model_q4", "model_quantized", "model_int8", "model_uint8"),
    *("model_q4f16", "model_bnb4"),
)
"""File names of the same decoder, best first: full precision, then the least quantised or computing in float32."""
_GGUF_PREFERRED = ("Q4_K_M", "Q8_0", "Q4_0", "Q4_1", "Q5_K_M", "Q6_K", "BF16", "F16", "F32")
"""Kinds of GGUF files, best first: the usual one, then small ones, then large ones."""
_MAX_TEXT_BYTES = 1 << 28
_MAX_NAME_LENGTH = 255
_MAX_LAYERS = 4096  # each takes memory before the graph is checked against it
_CHAT_TEMPLATE_FILE = "chat_template.jinja"


@dataclass(frozen=True)
class ExportedDecoder:
    """Configuration of a folder's decoder."""

    graph: Path
    """The ONNX file."""
    layers: int
    kv_heads: int
    head_dim: int
    vocab: int
    context_length: int
    names: Mapping[str, str]
    """Tensor name in a bundle -> name in the graph."""


def is_model_folder(path: Path) -> bool:
    """Return whether a folder looks like a language model: with an ONNX graph, or with weights in safetensors."""
    return has_graph(path) or ((path / CONFIG_FILE).is_file() and any(path.glob("*.safetensors")))


def has_graph(path: Path) -> bool:
    """Return whether a folder is one of onnxruntime-genai, optimum or transformers.js."""
    if (path / GENAI_FILE).is_file():
        return True
    files = [f"{folder}/{p.name}" if folder else p.name for folder in ONNX_FOLDERS for p in (path / folder).glob("*")]
    return (path / CONFIG_FILE).is_file() and choose_graph(files) is not None


def choose_graph(files: Iterable[str]) -> str | None:
    """Return the ONNX file to import from a folder's files; None if none holds a decoder.

    Examples
    --------
    >>> choose_graph(["config.json", "onnx/model_q4.onnx", "onnx/model_fp16.onnx"])
    'onnx/model_fp16.onnx'
    >>> choose_graph(["config.json", "exported.onnx"])
    'exported.onnx'
    """
    candidates = {file for file in files if file.endswith(".onnx")}
    for variant in VARIANTS:
        for folder in ONNX_FOLDERS:
            if (file := f"{folder}/{variant}.onnx".lstrip("/")) in candidates:
                return file
    return next(iter(candidates)) if len(candidates) == 1 else None


def choose_gguf(files: Iterable[str]) -> str | None:
    """Return the GGUF file to import of a repository's files; None if none holds a language model.

    Examples
    --------
    >>> choose_gguf(["a-Q2_K.gguf", "a-Q4_K_M.gguf", "a-Q8_0.gguf", "mmproj-F16.gguf"])
    'a-Q4_K_M.gguf'
    """
    names = sorted(name for name in files if name.lower().endswith(".gguf"))
    models = [name for name in names if "mmproj" not in name.lower()]  # those of an image encoder
    for kind in _GGUF_PREFERRED:
        for name in models:
            if re.search(rf"(?<![a-z0-9]){kind}(?![a-z0-9_])", name, re.IGNORECASE):
                return name
    return next(iter(models), None)


def weight_files(names: Iterable[str]) -> list[str]:
    """Return the files of a model's weights among the names of a folder's files.

    Others may hold the same weights under other names, as ``consolidated.safetensors`` of Mistral does.

    Examples
    --------
    >>> weight_files(["consolidated.safetensors", "model-00001-of-00001.safetensors", "config.json"])
    ['model-00001-of-00001.safetensors']
    """
    files = sorted(name for name in names if name.endswith(".safetensors") and "/" not in name)
    return [name for name in files if name.startswith("model")] or files


def read_decoder_config(folder: Path) -> ExportedDecoder:
    """Read a folder's configuration.

    Raises
    ------
    InvalidModel
        If a file or an entry is missing or of the wrong type.
    UnsupportedModel
        If the model is split into several graphs.
    """
    config = _genai(folder) if (folder / GENAI_FILE).is_file() else _transformers(folder)
    if not config.graph.is_file():
        raise InvalidModel(f"{folder} lacks its graph {config.graph.name}", remedy="download or export the model again")
    return config


def read_folder_tokenizer(folder: Path) -> Tokenizer:
    """Read the tokenizer of a folder, with its chat template and end-of-sequence tokens.

    Raises
    ------
    InvalidModel
        If a file is missing or malformed.
    """
    if not (folder / TOKENIZER_FILE).is_file():
        raise InvalidModel(
            f"{folder} has no {TOKENIZER_FILE}", remedy="save the model's tokenizer into it, in the fast format"
        )
    content = _text(folder / TOKENIZER_FILE)
    settings = read_json_object(folder / "tokenizer_config.json", optional=True)
    sections = [
        read_json_object(folder / GENAI_FILE, optional=True).get("model"),
        read_json_object(folder / "generation_config.json", optional=True),
        read_json_object(folder / CONFIG_FILE, optional=True),
    ]
    documents = [document for document in sections if isinstance(document, dict)]
    eos = next((ids for ids in (_ids(d.get("eos_token_id")) for d in documents) if ids), [])
    bos = next((ids for ids in (_ids(d.get("bos_token_id")) for d in documents) if ids), [])
    # Chat models often end a turn with another token than a text; tokenizer_config.json names it.
    vocabulary = Tokenizer(content, Prompting(eos_ids=()))
    eos += [token for token in _named(vocabulary, settings.get("eos_token")) if token not in eos]
    prompting = Prompting(
        eos_ids=tuple(eos),
        bos_id=next(iter([*_named(vocabulary, settings.get("bos_token")), *bos]), None),
        chat_template=_chat_template(folder, settings),
    )
    return Tokenizer(content, prompting)


def _genai(folder: Path) -> ExportedDecoder:
    where = folder / GENAI_FILE
    model = _section(read_json_object(where), "model", where)
    decoder = _section(model, "decoder", where)
    if "filename" not in decoder or "pipeline" in decoder:
        raise UnsupportedModel(
            f"{where} describes a decoder in several graphs", remedy="build the model as one graph, for the CPU"
        )
    file = decoder["filename"]
    if not isinstance(file, str) or Path(file).name != file or len(file) > _MAX_NAME_LENGTH or "\0" in file:
        raise InvalidModel(
            f"{where} names the graph {file!r}, expected a file beside it", remedy="build the model again"
        )
    layers = _integer(decoder, ("num_hidden_layers",), where, maximum=_MAX_LAYERS)
    inputs, outputs = decoder.get("inputs"), decoder.get("outputs")
    custom_names = {**(inputs if isinstance(inputs, dict) else {}), **(outputs if isinstance(outputs, dict) else {})}
    if not all(isinstance(name, str) and len(name) <= _MAX_NAME_LENGTH for name in custom_names.values()):
        raise InvalidModel(f"{where} has a tensor name that is no string, or too long", remedy="build the model again")
    names = {name: custom_names.get(name, name) for name in ("input_ids", "attention_mask", "position_ids", "logits")}
    for layer in range(layers):
        for ours, part in ((o, p) for o in ("past_key_values", "present") for p in ("key", "value")):
            key = f"{'past' if ours == 'past_key_values' else ours}_{part}_names"
            pattern = custom_names.get(key, f"{ours}.%d.{part}")
            names[f"{ours}.{layer}.{part}"] = pattern.replace("%d", str(layer))
    return ExportedDecoder(
        graph=folder / file,
        layers=layers,
        kv_heads=_integer(decoder, ("num_key_value_heads", "num_attention_heads"), where),
        head_dim=_integer(decoder, ("head_size",), where),
        vocab=_integer(model, ("vocab_size",), where),
        context_length=_integer(model, ("context_length",), where),
        names=names,
    )


def _transformers(folder: Path) -> ExportedDecoder:
    where = folder / CONFIG_FILE
    model = read_json_object(where)
    if isinstance(model.get("text_config"), dict):
        model = model["text_config"]
    files = [f"{sub}/{p.name}".lstrip("/") for sub in ONNX_FOLDERS for p in (folder / sub).glob("*.onnx")]
    graph = choose_graph(files)
    if graph is None:
        raise InvalidModel(f"{folder} holds no decoder", remedy="put model.onnx beside config.json or into onnx/")
    heads = ("num_attention_heads", "n_head")
    if model.get("head_dim") is None:
        head_dim = max(1, _integer(model, ("hidden_size", "n_embd"), where) // _integer(model, heads, where))
    else:
        head_dim = _integer(model, ("head_dim",), where)
    return ExportedDecoder(
        graph=folder / graph,
        layers=_integer(model, ("num_hidden_layers", "n_layer"), where, maximum=_MAX_LAYERS),
        kv_heads=_integer(model, ("num_key_value_heads", *heads), where),
        head_dim=head_dim,
        vocab=_integer(model, ("vocab_size",), where),
        context_length=_integer(model, ("max_position_embeddings", "n_positions"), where),
        names={},
    )


def read_json_object(path: Path, *, optional: bool = False) -> dict[str, Any]:
    """Return the JSON object in a file; an empty one if the file may be missing, and is.

    Raises
    ------
    InvalidModel
        If it is missing, or holds no JSON object.
    """
    if optional and not path.is_file():
        return {}
    try:
        document = parse_json(_text(path))
    except MalformedFile as error:
        raise InvalidModel(f"{path} is not valid JSON: {error}", remedy="download the model again") from error
    if not isinstance(document, dict):
        raise InvalidModel(f"{path} does not hold a JSON object", remedy="download the model again")
    return document


def _text(path: Path) -> str:
    try:
        return read_text(path, _MAX_TEXT_BYTES)
    except FileNotFoundError:
        raise InvalidModel(f"{path} is missing", remedy="download the model again") from None
    except OSError as error:
        raise InvalidModel(f"{path} cannot be read: {error.strerror}", remedy="download the model again") from error
    except MalformedFile as error:
        raise InvalidModel(f"{path}: {error}", remedy="download the model again") from None


def _section(document: dict[str, Any], key: str, where: Path) -> dict[str, Any]:
    section = document.get(key)
    if not isinstance(section, dict):
        raise InvalidModel(f"{where} has no section {key!r}", remedy="build the model again")
    return section


def _integer(document: dict[str, Any], keys: tuple[str, ...], where: Path, *, maximum: int = (1 << 31) - 1) -> int:
    """Return the first of several entries that exists: an integer from 1 to `maximum`."""
    for key in keys:
        value = document.get(key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= maximum:
            raise InvalidModel(
                f"{where} has {key} = {value!r}, expected 1 to {maximum}", remedy="download or export the model again"
            )
        return value
    raise InvalidModel(f"{where} lacks {keys[0]}", remedy="add it, or export the model again")


def _ids(value: object) -> list[int]:
    """Return the token ids of an entry that is one id, a list of ids, or something else."""
    several = value if isinstance(value, list) else [value]
    return [token for token in several if isinstance(token, int) and not isinstance(token, bool)]


def _named(vocabulary: Tokenizer, entry: object) -> list[int]:
    """Return the id of a token named by its text, plain or with properties; empty if there is no such token."""
    text = entry.get("content") if isinstance(entry, dict) else entry
    ids = vocabulary.encode(text, add_special=False) if isinstance(text, str) else []
    return ids if len(ids) == 1 else []


def _chat_template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    """Return the chat template: from its own file, else from the tokenizer's settings; of several the default one."""
    if (folder / _CHAT_TEMPLATE_FILE).is_file():
        return _text(folder / _CHAT_TEMPLATE_FILE)
    template = settings.get("chat_template")
    if isinstance(template, list):
        entries = [entry for entry in template if isinstance(entry, dict)]
        named = {str(entry.get("name")): entry.get("template") for entry in entries}
        template = named.get("default", next(iter(named.values()), None))
    return template if isinstance(template, str) else None
