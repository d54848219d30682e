"""What can be told of a model before it is downloaded, from whatever is there of it: one file here for each kind.

The less is there, the less certain the answer: every description says how certain it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from trisect.runtime.errors import InvalidInput, InvalidModel

Confidence = Literal["measured", "high", "medium", "low"]
"""``measured``: it ran here; ``high``: the whole graph is known; ``medium``: sizes and architecture are; ``low``: only
names are."""

Source = str | Path | Mapping[str, Any]
_LARGEST_TEXT_BYTES = 16 << 20


@dataclass(frozen=True)
class Description:
    """A model as far as it is known."""

    kind: str
    """What was looked at: ``ONNX``, ``GGUF header``, ``config.json``, ..."""
    name: str
    confidence: Confidence
    graph: Path | None = None
    """An ONNX file whose graph is whole; its weights may be zeros."""
    is_language_model: bool = False
    operators: frozenset[str] = frozenset()
    """Operators by ONNX's names, where they are known but there is no graph."""
    weight_bytes: int | None = None
    decode_bytes: int | None = None
    """Bytes of weights that one new token reads."""
    parameters: int | None = None
    cache_bytes_per_token: int | None = None
    context_length: int | None = None
    refused: str = ""
    """Why trisect cannot run it on any device; empty where nothing speaks against it."""
    notes: tuple[str, ...] = ()
    key: str = ""
    """The same for the same model: what history knows it by; empty where there is too little for that."""
    scratch: Any = field(default=None, compare=False, repr=False)
    """Keeps temporary files alive."""


def describe(source: Source) -> Description:
    """Look at a model, or at what there is of it.

    Parameters
    ----------
    source : path, str or mapping
        An ONNX file, with or without its weights; a folder of a language model, or only its ``config.json``; a GGUF
        file or the first part of one; a TFLite file; a mapping with any of ``name``, ``files`` (names, or names ->
        bytes), ``tags`` and ``config``; or a name as on a hub, ``owner/model``.

    Raises
    ------
    InvalidInput, InvalidModel, UnsupportedModel
        Where there is nothing to look at, or it is damaged.
    """
    from . import language_model as language
    from . import onnx_file, tflite_file

    if isinstance(source, Mapping):
        return language.from_listing(source)
    path = Path(source)
    if path.is_dir():
        return language.from_folder(path)
    if not path.exists():
        if isinstance(source, str) and source.count("/") == 1 and not source.startswith((".", "/")):
            return language.from_listing({"name": source})
        raise InvalidInput(f"no model at {source}", remedy="give a file, a folder, or what is known of the model")
    head = _head(path)
    if head.startswith(b"GGUF"):
        return language.from_gguf(path)
    if head[4:8] == b"TFL3":
        return tflite_file.read(path)
    if path.suffix == ".json":
        return language.from_config(read_json(path), path.parent.name or path.name)
    return onnx_file.read(path)


def read_json(path: Path) -> Mapping[str, Any]:
    """A JSON object out of a file of bounded size.

    Raises
    ------
    InvalidModel
    """
    try:
        if path.stat().st_size > _LARGEST_TEXT_BYTES:
            raise InvalidModel(f"{path.name} is over {_LARGEST_TEXT_BYTES >> 20} MiB", remedy="do not trust this model")
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise InvalidModel(f"{path} cannot be read: {error.strerror}", remedy="check the path") from error
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise InvalidModel(f"{path.name} is not sound JSON: {error}", remedy="fetch it again") from error
    if not isinstance(found, dict):
        raise InvalidModel(f"{path.name} holds no JSON object", remedy="fetch it again")
    return found


def whole_number(document: Mapping[str, Any], keys: Iterable[str], most: int) -> int | None:
    """The first entry that is a whole number from 1 to `most`; None where there is none.

    Raises
    ------
    InvalidModel
        For an entry that is there and makes no sense.
    """
    for key in keys:
        value = document.get(key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise InvalidModel(f"{key} is {str(value)[:40]!r}", remedy=f"it should be a whole number up to {most}")
        return value
    return None


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(8)
    except OSError as error:
        raise InvalidModel(f"{path} cannot be read: {error.strerror}", remedy="check the path") from error
