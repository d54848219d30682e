"""Constraints on a placement: which nodes must or must not run where, which stay together, and limits.

Nodes are selected by name, by ``re:`` and a regular expression that the whole name matches, by ``op:`` and an operator,
or by ``class:`` and an op class; devices by id or kind. A selector that matches nothing is an error.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from trisect.runtime.errors import InvalidInput
from trisect.runtime.untrusted_files import MalformedFile, read_toml

SPECIAL_FLOATS = "special-floats"
"""Assumption: inputs may contain infinities and NaN."""
_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_SIZE_LIMIT_BYTES = 2.0**62
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
    assume: tuple[str, ...] = ()
    """What is known of the values: ``narrow-numbers``: no 64-bit number, fed or computed, needs more than 32 bits, so
    that devices that compute 64-bit numbers in 32 bits may compute them; ``special-floats``: inputs may contain
    infinities and NaN, so that devices that treat these differently are not used for what they reach."""
    state: Mapping[str, str] = field(default_factory=dict)
    """Stateful tensors, such as a KV cache: input of the model -> output of which the next run takes the value. The
    nodes that read the one and the node that computes the other run on one device, so that the state can stay there."""

    def plain(self) -> dict[str, Any]:
        """Return the fields that differ from the defaults as plain data, as `read_constraints` takes them."""
        plain: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if value != getattr(Constraints(), item.name):
                plain[item.name] = dict(value) if isinstance(value, Mapping) else value
        lists = {"colocate": lambda groups: [list(group) for group in groups], "assume": list}
        return {key: lists[key](value) if key in lists else value for key, value in plain.items()}

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
            tuple(dict.fromkeys(self.assume + other.assume)),
            {**self.state, **other.state},
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
    try:
        read = msgspec.convert(values, _ConstraintsTable)
    except msgspec.ValidationError as error:
        expected, _, path = str(error).partition(" - at `$.")
        key = re.split(r"\W", path, maxsplit=1)[0]
        raise InvalidInput(
            f"{where}: {expected[0].lower()}{expected[1:]} in {key}, found {values[key]!r}", remedy=_REMEDY
        ) from error
    return Constraints(
        force={selector: _joined(devices) for selector, devices in read.force.items()},
        forbid={selector: _joined(devices) for selector, devices in read.forbid.items()},
        colocate=tuple((group,) if isinstance(group, str) else tuple(group) for group in read.colocate),
        max_segments=read.max_segments,
        contiguous=read.contiguous,
        cpu_fallback=read.cpu_fallback,
        memory={device: size_of(size, f"{where}: memory of {device}") for device, size in read.memory.items()},
        assume=tuple(dict.fromkeys(read.assume)),
        state=read.state,
    )


_Text = Annotated[str, msgspec.Meta(min_length=1)]
_Texts = _Text | Annotated[list[_Text], msgspec.Meta(min_length=1)]


class _ConstraintsTable(msgspec.Struct):
    """Constraints as they are written in TOML."""

    force: dict[str, _Texts] = {}
    forbid: dict[str, _Texts] = {}
    colocate: list[_Texts] = []
    max_segments: Annotated[int, msgspec.Meta(ge=1)] | None = None
    contiguous: bool = False
    cpu_fallback: bool = True
    memory: dict[str, int | str] = {}
    assume: list[Literal["narrow-numbers", "special-floats"]] = []
    state: dict[_Text, _Text] = {}


def _joined(texts: str | list[str]) -> str:
    return texts if isinstance(texts, str) else ",".join(texts)


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
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < _SIZE_LIMIT_BYTES:
        return value
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z]*)\s*", value) if isinstance(value, str) else None
    unit = _UNITS.get(match[2].lower()) if match is not None else None
    if match is None or unit is None or not 1 <= float(match[1]) * unit < _SIZE_LIMIT_BYTES:
        raise InvalidInput(
            f"invalid {what} {value!r}: expected a number of bytes, or as in '4 GB'", remedy="correct it"
        )
    return round(float(match[1]) * unit)


def _parse(path: Path) -> dict[str, Any]:
    try:
        return read_toml(path)
    except OSError as error:
        raise InvalidInput(f"cannot read the constraints {path}: {error.strerror}", remedy="check the path") from error
    except MalformedFile as error:
        raise InvalidInput(f"{path} cannot be read: {error}", remedy=_REMEDY) from error
