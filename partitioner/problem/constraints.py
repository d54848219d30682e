"""What a user demands of a placement: which work must or must not go where, what stays together, how much may be.

Work is selected by a node's name, ``re:`` and a regular expression that the whole name matches, ``op:`` and an
operator, or ``class:`` and a class of operators; devices by id or kind. A selector that selects nothing is a slip of
the pen and refused. How demands narrow a problem is in `constraining`.
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
    """Demands on a placement; the same names are the keys of a TOML file.

    Examples
    --------
    >>> Constraints(force={"op:Softmax": "cpu"}, max_segments=4).plain()
    {'force': {'op:Softmax': 'cpu'}, 'max_segments': 4}
    >>> read_constraints({"forbid": {"class:matvec": "gpu,npu"}, "memory": {"gpu": "4 GB"}}).plain()
    {'forbid': {'class:matvec': 'gpu,npu'}, 'memory': {'gpu': 4000000000}}
    """

    force: Mapping[str, str] = field(default_factory=dict)
    """Selector -> device id or kind (or several, comma-separated) that the work must run on."""
    forbid: Mapping[str, str] = field(default_factory=dict)
    """Selector -> device id or kind (or several) that the work must not run on."""
    colocate: tuple[tuple[str, ...], ...] = ()
    """Groups of selectors: all that one group selects is on one device."""
    max_segments: int | None = None
    """How many segments there may be at most."""
    contiguous: bool = False
    """Each device gets one segment."""
    cpu_fallback: bool = True
    """False: the CPU runs only what is forced to it; what nothing else can run is an error."""
    memory: Mapping[str, int] = field(default_factory=dict)
    """Device id or kind -> bytes that weights and tensors may take there, less than the device has."""

    def plain(self) -> dict[str, Any]:
        """Those that differ from the defaults, as plain data, as `read_constraints` takes them."""
        found: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if value != getattr(Constraints(), item.name):
                found[item.name] = dict(value) if isinstance(value, Mapping) else value
        return {key: [list(group) for group in v] if key == "colocate" else v for key, v in found.items()}

    def joined(self, other: Constraints) -> Constraints:
        """These and others; where both say something of one selector or number, the others' word counts."""
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
    """Constraints from whatever a user has: themselves, a mapping of the same keys, or a TOML file.

    Raises
    ------
    InvalidInput
        For a file that cannot be read, an unknown key, or a value that makes no sense.
    """
    if source is None:
        return Constraints()
    where = "the constraints"
    if isinstance(source, str | Path):
        where, source = str(source), _parse(Path(source))
    given = source.plain() if isinstance(source, Constraints) else dict(source)
    known = [item.name for item in fields(Constraints)]
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise InvalidInput(f"{where}: no constraint {key!r}", remedy=f"{hint}there are: {', '.join(known)}")
    return Constraints(
        force=_targets(given.get("force", {}), f"{where}: force"),
        forbid=_targets(given.get("forbid", {}), f"{where}: forbid"),
        colocate=_groups(given.get("colocate", ()), f"{where}: colocate"),
        max_segments=_count(given.get("max_segments"), f"{where}: max_segments"),
        contiguous=_flag(given.get("contiguous", False), f"{where}: contiguous"),
        cpu_fallback=_flag(given.get("cpu_fallback", True), f"{where}: cpu_fallback"),
        memory={k: size_of(v, f"{where}: memory of {k}") for k, v in _table(given.get("memory", {}), where).items()},
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
                f"{option} {text!r} says nothing", remedy=f"give selector=device: {option} op:Softmax=gpu"
            )
        pairs[selector] = f"{pairs[selector]},{device}" if selector in pairs else device
    return pairs


def size_of(value: object, what: str = "a size") -> int:
    """Bytes from a number or a text with a unit.

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
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z]*)\s*", value) if isinstance(value, str) else None
    unit = _UNITS.get(found[2].lower()) if found is not None else None
    if found is None or unit is None or round(float(found[1]) * unit) < 1:
        raise InvalidInput(f"{what} is {value!r}", remedy="give bytes as a whole number, or as in '4 GB'")
    return round(float(found[1]) * unit)


def _parse(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInput(f"cannot read the constraints {path}: {error.strerror}", remedy="check the path") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} is no TOML file: {error}", remedy=_REMEDY) from error


def _table(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidInput(f"{where}: {value!r} is no table", remedy=_REMEDY)
    return {str(key): each for key, each in value.items()}


def _targets(value: object, where: str) -> dict[str, str]:
    found = {}
    for selector, devices in _table(value, where).items():
        named = devices if isinstance(devices, str) else ",".join(_texts(devices, f"{where} {selector}"))
        if not named:
            raise InvalidInput(f"{where} {selector}: no device", remedy="name one by id or kind")
        found[selector] = named
    return found


def _groups(value: object, where: str) -> tuple[tuple[str, ...], ...]:
    if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
        raise InvalidInput(f"{where} is {value!r}", remedy='give groups of selectors: [["a", "b"], ["op:LSTM"]]')
    return tuple(tuple(_texts(group, where)) for group in value)


def _texts(value: object, where: str) -> list[str]:
    found = [value] if isinstance(value, str) else list(value) if isinstance(value, Iterable) else []
    if not found or not all(isinstance(each, str) for each in found):
        raise InvalidInput(f"{where} is {value!r}", remedy="give a list of texts")
    return found


def _count(value: object, where: str) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidInput(f"{where} is {value!r}", remedy="give a whole number from 1 on")
    return value


def _flag(value: object, where: str) -> bool:
    if not isinstance(value, bool):
        raise InvalidInput(f"{where} is {value!r}", remedy="give true or false")
    return value
