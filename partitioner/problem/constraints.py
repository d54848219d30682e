"""Constraints on a placement: which nodes must or must not run where, which stay together, and limits.

Nodes are selected by name, by ``re:`` and a regular expression that the whole name matches, by ``op:`` and an operator,
or by ``class:`` and an op class; devices by id or kind. A selector that matches nothing is an error.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from trisect.runtime.errors import InvalidInput

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_REMEDY = "see the documentation of Constraints"


@dataclass(frozen=True)
class Constraints:
    """Constraints on a placement; the field names are the keys of a TOML file.

    Examples
    --------
    >>> Constraints(force={"op:Softmax": "cpu"}, max_segments=4).plain()
    {'force': {'op:Softmax': 'cpu'}, 'max_segments': 4}
    >>> read_constraints({"forbid": {"class:matvec": "gpu,npu"}, "memory": {"gpu": "4 GB"}}).plain()
    {'forbid': {'class:matvec': 'gpu,npu'}, 'memory': {'gpu': 4000000000}}
    """

    force: Mapping[str, str] = field(default_factory=dict)
    """Selector -> device id or kind (or several, comma-separated) that the nodes must run on."""
    forbid: Mapping[str, str] = field(default_factory=dict)
    """Selector -> device id or kind (or several) that the nodes must not run on."""
    colocate: tuple[tuple[str, ...], ...] = ()
    """Groups of selectors: the nodes that a group selects run on one device."""
    max_segments: int | None = None
    """Maximum number of segments."""
    contiguous: bool = False
    """Whether each device gets only one segment."""
    cpu_fallback: bool = True
    """False: the CPU runs only nodes that are forced to it; nodes that no other device can run are an error."""
    memory: Mapping[str, int] = field(default_factory=dict)
    """Device id or kind -> bytes of memory for weights and tensors, below what the device has."""

    def plain(self) -> dict[str, Any]:
        """Return the fields that differ from the defaults as plain data, as `read_constraints` takes them."""
        plain: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if value != getattr(Constraints(), item.name):
                plain[item.name] = dict(value) if isinstance(value, Mapping) else value
        return {key: [list(group) for group in v] if key == "colocate" else v for key, v in plain.items()}

    def joined(self, other: Constraints) -> Constraints:
        """Return these and other constraints together; the others take precedence where both set a value."""
        return Constraints(
            {**self.force, **other.force},
            {**self.forbid, **other.forbid},
            self.colocate + other.colocate,
            self.max_segments if other.max_segments is None else other.max_segments,
            self.contiguous or other.contiguous,
            self.cpu_fallback and other.cpu_fallback,
            {**self.memory, **other.memory},
        )


def read_constraints(source: Constraints | Mapping[str, Any] | str | Path | None) -> Constraints:
    """Read constraints from a mapping or a TOML file with the same keys; `Constraints` are checked.

    Raises
    ------
    InvalidInput
        For a file that cannot be read, an unknown key, or an invalid value.
    """
    if source is None:
        return Constraints()
    where = "the constraints"
    if isinstance(source, str | Path):
        where, source = str(source), _parse(Path(source))
    values = source.plain() if isinstance(source, Constraints) else dict(source)
    known = [item.name for item in fields(Constraints)]
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise InvalidInput(f"{where}: unknown constraint {key!r}", remedy=f"{hint}choose from {', '.join(known)}")
    return Constraints(
        force=_targets(values.get("force", {}), f"{where}: force"),
        forbid=_targets(values.get("forbid", {}), f"{where}: forbid"),
        colocate=_groups(values.get("colocate", ()), f"{where}: colocate"),
        max_segments=_count(values.get("max_segments"), f"{where}: max_segments"),
        contiguous=_flag(values.get("contiguous", False), f"{where}: contiguous"),
        cpu_fallback=_flag(values.get("cpu_fallback", True), f"{where}: cpu_fallback"),
        memory={k: size_of(v, f"{where}: memory of {k}") for k, v in _table(values.get("memory", {}), where).items()},
    )


def parse_pairs(texts: Iterable[str], option: str) -> dict[str, str]:
    """Read ``selector=device`` pairs of the command line.

    Raises
    ------
    InvalidInput

    Examples
    --------
    >>> parse_pairs(["op:Softmax=gpu", "a=b=cpu:ort"], "--forbid")
    {'op:Softmax': 'gpu', 'a=b': 'cpu:ort'}
    """
    pairs: dict[str, str] = {}
    for text in texts:
        selector, _, device = text.rpartition("=")
        if not selector or not device:
            raise InvalidInput(
                f"invalid {option} {text!r}: expected SELECTOR=DEVICE", remedy=f"for example {option} op:Softmax=gpu"
            )
        pairs[selector] = f"{pairs[selector]},{device}" if selector in pairs else device
    return pairs


def size_of(value: object, what: str = "a size") -> int:
    """Return the bytes of a number, or of a text with a unit.

    Raises
    ------
    InvalidInput

    Examples
    --------
    >>> size_of("1.5 GiB"), size_of(1000)
    (1610612736, 1000)
    """
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z]*)\s*", value) if isinstance(value, str) else None
    unit = _UNITS.get(match[2].lower()) if match is not None else None
    if match is None or unit is None or round(float(match[1]) * unit) < 1:
        raise InvalidInput(
            f"invalid {what} {value!r}: expected a number of bytes, or as in '4 GB'", remedy="correct it"
        )
    return round(float(match[1]) * unit)


def _parse(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInput(f"cannot read the constraints {path}: {error.strerror}", remedy="check the path") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} is invalid TOML: {error}", remedy=_REMEDY) from error


def _table(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidInput(f"{where}: expected a table, found {value!r}", remedy=_REMEDY)
    return {str(key): each for key, each in value.items()}


def _targets(value: object, where: str) -> dict[str, str]:
    targets = {}
    for selector, devices in _table(value, where).items():
        named = devices if isinstance(devices, str) else ",".join(_texts(devices, f"{where} {selector}"))
        if not named:
            raise InvalidInput(f"{where} {selector}: expected a device, found none", remedy="name one by id or kind")
        targets[selector] = named
    return targets


def _groups(value: object, where: str) -> tuple[tuple[str, ...], ...]:
    if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
        raise InvalidInput(
            f"{where}: expected groups of selectors, found {value!r}", remedy='for example [["a", "b"], ["op:LSTM"]]'
        )
    return tuple(tuple(_texts(group, where)) for group in value)


def _texts(value: object, where: str) -> list[str]:
    texts = [value] if isinstance(value, str) else list(value) if isinstance(value, Iterable) else []
    if not texts or not all(isinstance(text, str) for text in texts):
        raise InvalidInput(f"{where}: expected a list of texts, found {value!r}", remedy=_REMEDY)
    return texts


def _count(value: object, where: str) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidInput(f"{where}: expected a positive whole number, found {value!r}", remedy="correct it")
    return value


def _flag(value: object, where: str) -> bool:
    if not isinstance(value, bool):
        raise InvalidInput(f"{where}: expected true or false, found {value!r}", remedy="correct it")
    return value
