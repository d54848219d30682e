"""Descriptions of models before they are downloaded, from files or metadata: one module for each kind of source.

Every description has a confidence: the less is available, the lower it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from trisect.runtime.errors import InvalidInput, InvalidModel
from trisect.runtime.untrusted_files import open_regular

from . import language_model, onnx_file, tflite_file
from .model_description import ModelDescription, Source, read_json


def describe_model(source: Source) -> ModelDescription:
    """Describe a model from what is available of it.

    Parameters
    ----------
    source : path, str or mapping
        An ONNX file, with or without its weights; a folder of a language model, or only its ``config.json``; a GGUF
        file or the first part of one; a TFLite file; a mapping with any of ``name``, ``files`` (names, or names ->
        bytes), ``tags`` and ``config``; or a name as on a hub, ``owner/model``.

    Raises
    ------
    InvalidInput, InvalidModel, UnsupportedModel
        Where there is nothing to examine, or it is damaged.
    """
    if isinstance(source, Mapping):
        return language_model.from_metadata(source)
    path = Path(source)
    if path.is_dir():
        return language_model.from_folder(path)
    if not path.exists():
        if isinstance(source, str) and source.count("/") == 1 and not source.startswith((".", "/")):
            return language_model.from_metadata({"name": source})
        raise InvalidInput(f"no model at {source}", remedy="pass a file, a folder, or a mapping with metadata")
    head = _head(path)
    if head.startswith(b"GGUF"):
        return language_model.from_gguf(path)
    if head[4:8] == b"TFL3":
        return tflite_file.from_tflite(path)
    if path.suffix == ".json":
        return language_model.from_config(read_json(path), path.parent.name or path.name)
    return onnx_file.from_onnx(path)


def _head(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            return file.read(8)
    except OSError as error:
        raise InvalidModel(f"{path} cannot be read: {error.strerror}", remedy="check the path") from error
