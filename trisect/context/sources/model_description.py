"""What is known of a model before it is downloaded, and how its JSON metadata is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from trisect.llm.phases.model_memory import ModelSizes
from trisect.runtime import untrusted_files
from trisect.runtime.errors import InvalidModel

Confidence = Literal["measured", "high", "medium", "low"]
"""``measured``: it ran here; ``high``: the whole graph is known; ``medium``: sizes and architecture are; ``low``: only
names are."""

Source = str | Path | Mapping[str, Any]
_MAX_JSON_BYTES = 16 << 20


@dataclass(frozen=True)
class ModelDescription:
    """A model as far as it is known."""

    kind: str
    """What was examined: ``ONNX``, ``GGUF header``, ``config.json``, ..."""
    name: str
    confidence: Confidence
    graph: Path | None = None
    """An ONNX file with the whole graph; its weights may be zeros."""
    is_language_model: bool = False
    operators: frozenset[str] = frozenset()
    """Operators by ONNX's names, where they are known but the graph is not."""
    weight_bytes: int | None = None
    decode_bytes: int | None = None
    """Bytes of weights that are read for each new token."""
    parameters: int | None = None
    cache_bytes_per_token: int | None = None
    sizes: ModelSizes | None = None
    """What its memory on each engine depends on, where that is known."""
    context_length: int | None = None
    refused: str = ""
    """Why trisect cannot run it on any device; empty where no reason is known."""
    notes: tuple[str, ...] = ()
    key: str = ""
    """Identifies the model in the history; empty where too little is known for that."""
    temporary_folder: Any = field(default=None, compare=False, repr=False)
    """Keeps the temporary files of `graph` alive."""


def read_json(path: Path) -> Mapping[str, Any]:
    """Read a JSON object from a file of bounded size.

    Raises
    ------
    InvalidModel
        For a file that is too large, cannot be read, or does not contain a JSON object.
    """
    try:
        document = untrusted_files.read_json(path, _MAX_JSON_BYTES)
    except OSError as error:
        raise InvalidModel(f"{path} cannot be read: {error.strerror}", remedy="check the path") from error
    except untrusted_files.MalformedFile as error:
        raise InvalidModel(f"{path.name}: {error}", remedy="download it again") from error
    if not isinstance(document, dict):
        raise InvalidModel(f"{path.name}: expected a JSON object", remedy="download it again")
    return document


def whole_number(document: Mapping[str, Any], keys: Iterable[str], maximum: int) -> int | None:
    """Return the first entry that is set, an integer from 1 to `maximum`; None where none is set.

    Raises
    ------
    InvalidModel
        For an entry that is not such an integer.
    """
    for key in keys:
        value = document.get(key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= maximum:
            raise InvalidModel(
                f"{key}={str(value)[:40]!r}: expected an integer from 1 to {maximum}",
                remedy="check the model's metadata",
            )
        return value
    return None
