"""Reads the metadata of one architecture from a GGUF file, every value checked as it is read.

It also records which tensors were read as part of the configuration, such as factors of the rotary embedding.
"""

from __future__ import annotations

import math

import numpy as np

from trisect.runtime.errors import InvalidModel, UnsupportedModel

from .gguf_reader import GgufFile, Value
from .quantised_blocks import dequantise


class ArchitectureMetadata:
    """The entries ``ARCHITECTURE.key`` of a file.

    Parameters
    ----------
    file : GgufFile
    architecture : str
        The prefix of its keys.
    """

    def __init__(self, file: GgufFile, architecture: str) -> None:
        self.file = file
        self.architecture = architecture
        self.read_tensors: set[str] = set()
        """Names of the tensors that are part of the configuration."""

    def integer(self, key: str, maximum: int, default: int | None = None) -> int:
        """Return an integer from 1 to `maximum`, or the default; a list with one per layer must hold equal ones."""
        value = self._get(key, default)
        if isinstance(value, np.ndarray):
            if value.size == 0 or (value != value[0]).any():
                raise self.unsupported(f"a {key} that differs between layers")
            value = value[0].item()
        if not isinstance(value, int) or isinstance(value, bool) or not (1 <= value <= maximum or value == default):
            raise self.invalid(f"{self.architecture}.{key} is {_shown(value)}")
        return value

    def real(self, key: str, default: float | None = None) -> float:
        """Return a finite number above 0, or the default."""
        value = self._get(key, default)
        if (
            not isinstance(value, (int, float))
            or isinstance(value, bool)
            or not (0 < value < math.inf or value == default)
        ):
            raise self.invalid(f"{self.architecture}.{key} is {_shown(value)}")
        return float(value)

    def text(self, key: str, default: str) -> str:
        return str(self._get(key, default))

    def pattern(self, key: str, layers: int, default: int) -> list[bool]:
        """Return one flag per layer: given one by one, or as a period whose last layer alone has False."""
        value = self._get(key, default)
        if isinstance(value, np.ndarray):
            if value.shape != (layers,) or not np.isin(value, (0, 1)).all():
                raise self.invalid(f"{self.architecture}.{key} is not one flag for each of {layers} layers")
            return [bool(flag) for flag in value]
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 31:
            raise self.invalid(f"{self.architecture}.{key} is {_shown(value)}")
        return [value == 0 or index % value < value - 1 for index in range(layers)]

    def integers(self, key: str, count: int, maximum: int) -> list[int]:
        """Return a list of integers from 0 to `maximum`."""
        value = self._get(key, None)
        if not isinstance(value, np.ndarray) or value.shape != (count,) or value.dtype.kind not in "iu":
            raise self.invalid(f"{self.architecture}.{key} is not {count} integers")
        numbers = [int(number) for number in value]
        if not all(0 <= number <= maximum for number in numbers):
            raise self.invalid(f"{self.architecture}.{key} is {_shown(numbers)}")
        return numbers

    def tensor(self, name: str, shape: tuple[int, ...]) -> np.ndarray | None:
        """Return a tensor that belongs to the configuration, of positive numbers; None if there is none."""
        tensor = self.file.tensors.get(name)
        if tensor is None:
            return None
        self.read_tensors.add(name)
        if tensor.shape != shape:
            raise self.invalid(f"{name} has shape {list(tensor.shape)}, expected {list(shape)}")
        values = dequantise(tensor)
        if not (values > 0).all():
            raise self.invalid(f"{name} is not positive")
        return values

    def refuse_nonzero(self, key: str, what: str) -> None:
        """Refuse a model with a value that would change what it computes."""
        value = self._get(key, 0)
        if isinstance(value, np.ndarray) or value != 0:
            raise self.unsupported(what)

    def unsupported(self, what: str) -> UnsupportedModel:
        return UnsupportedModel(f"{self.file.path.name} ({self.architecture}) uses {what}, which is not supported")

    def invalid(self, what: str) -> InvalidModel:
        return InvalidModel(f"{self.file.path.name} is inconsistent: {what}", remedy="download it again")

    def _get(self, key: str, default: Value | None) -> Value:
        value = self.file.metadata.get(f"{self.architecture}.{key}", default)
        if value is None:
            raise self.invalid(f"{self.architecture}.{key} is missing")
        return value


def _shown(value: object) -> str:
    """Return the beginning of a value on one line: a file may hold megabytes."""
    return " ".join(f"{value!r}"[:80].split())
