"""The table of the strategy ``opclass``: operator class -> kind of device; a TOML file can change it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from trisect.profiles.costmodel.op_features import OpClass, OpFeatures
from trisect.runtime.errors import InvalidInput
from trisect.runtime.untrusted_files import MalformedFile, read_toml

NEIGHBOUR = "neighbour"
"""Instead of a kind of device: where most of the input comes from, because moving it costs more than the work."""
_KINDS = ("cpu", "gpu", "npu", NEIGHBOUR)
_REMEDY = "see the documentation of the strategy opclass"
_DEFAULT_KINDS: dict[OpClass, str] = {
    OpClass.MATMUL: "gpu",
    OpClass.CONV: "gpu",
    OpClass.ATTENTION: "gpu",
    OpClass.RECURRENT: "gpu",
    OpClass.MATVEC: "npu",
    OpClass.SHAPE: "cpu",
    OpClass.CONTROL_FLOW: "cpu",
    OpClass.NORM: NEIGHBOUR,
    OpClass.ELEMENTWISE: NEIGHBOUR,
    OpClass.DATA_MOVEMENT: NEIGHBOUR,
}


@dataclass(frozen=True)
class ClassTable:
    """Which kind of device runs an operator.

    The first entry that applies: small operators, the batch size, the class.

    Examples
    --------
    >>> work = OpFeatures("Conv", OpClass.CONV, 1e9, 10**6, 10**6, 0, "float32")
    >>> [ClassTable().kind_of(work, batch) for batch in (None, 1, 64)]
    ['gpu', 'npu', 'gpu']
    """

    kinds: Mapping[OpClass, str] = field(default_factory=lambda: dict(_DEFAULT_KINDS))
    batched: tuple[OpClass, ...] = (OpClass.CONV,)
    """Classes for which the batch size decides: an NPU runs convolutions of few images, a GPU those of many."""
    few: int = 8
    """Largest batch of `few_kind`."""
    few_kind: str = "npu"
    many: int = 33
    """Smallest batch of `many_kind`."""
    many_kind: str = "gpu"
    small_flops: float = 10_000.0
    small_bytes: int = 16_384
    """Operators up to both limits finish on the CPU before another device is called."""
    small_kind: str = "cpu"

    def kind_of(self, features: OpFeatures, batch: int | None) -> str:
        """Return the kind of device for an operator, or `NEIGHBOUR`."""
        kind = self.kinds[features.op_class]
        if kind == NEIGHBOUR:
            return kind
        if features.flops <= self.small_flops and features.bytes_read + features.bytes_written <= self.small_bytes:
            return self.small_kind
        if features.op_class in self.batched and batch is not None:
            if batch <= self.few:
                return self.few_kind
            if batch >= self.many:
                return self.many_kind
        return kind


def read_table(path: Path) -> ClassTable:
    """Read the default table with the changes of a TOML file.

    ``[kinds]`` has a kind of device (``cpu``, ``gpu``, ``npu`` or ``neighbour``) for each class; ``[batch]`` has
    ``classes``, ``few``, ``few_kind``, ``many`` and ``many_kind``; ``[small]`` has ``flops``, ``bytes`` and ``kind``.

    Raises
    ------
    InvalidInput
        For an unreadable file, an unknown key, or an invalid value.
    """
    try:
        content = read_toml(path)
    except OSError as error:
        raise InvalidInput(f"cannot read the table {path}: {error.strerror}", remedy="check the path") from error
    except MalformedFile as error:
        raise InvalidInput(f"{path} is not a table of kinds: {error}", remedy=_REMEDY) from error
    table = ClassTable()
    for name, section in content.items():
        _check_name(name, ("kinds", "batch", "small"), f"{path}: no section")
        if not isinstance(section, dict):
            raise InvalidInput(f"{path}: expected a section [{name}], found a value", remedy=_REMEDY)
        table = {"kinds": _with_kinds, "batch": _with_batch, "small": _with_small}[name](table, section, str(path))
    if table.few >= table.many:
        raise InvalidInput(
            f"{path}: expected few below many, found few = {table.few} and many = {table.many}", remedy=_REMEDY
        )
    return table


def _with_kinds(table: ClassTable, section: dict[str, Any], where: str) -> ClassTable:
    return replace(table, kinds={**table.kinds, **{_class(k, where): _kind(v, where) for k, v in section.items()}})


def _with_batch(table: ClassTable, section: dict[str, Any], where: str) -> ClassTable:
    changes: dict[str, Any] = {}
    for key, value in section.items():
        _check_name(key, ("classes", "few", "few_kind", "many", "many_kind"), f"{where}: [batch] has no")
        if key == "classes":
            if not isinstance(value, list):
                raise InvalidInput(
                    f"{where}: expected a list of classes, found {value!r}", remedy="give a list of classes"
                )
            changes["batched"] = tuple(_class(name, where) for name in value)
        else:
            changes[key] = _kind(value, where) if key.endswith("kind") else _number(value, f"{where}: {key}")
    return replace(table, **changes)


def _with_small(table: ClassTable, section: dict[str, Any], where: str) -> ClassTable:
    changes: dict[str, Any] = {}
    for key, value in section.items():
        _check_name(key, ("flops", "bytes", "kind"), f"{where}: [small] has no")
        changes[f"small_{key}"] = _kind(value, where) if key == "kind" else _number(value, f"{where}: {key}")
    return replace(table, **changes)


def _class(name: object, where: str) -> OpClass:
    _check_name(name, [op_class.value for op_class in OpClass], f"{where}: no class")
    return OpClass(str(name))


def _kind(name: object, where: str) -> str:
    _check_name(name, _KINDS, f"{where}: no kind of device")
    return str(name)


def _number(value: object, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InvalidInput(
            f"{what}: expected a whole number of at least 0, found {value!r}", remedy="give a whole number"
        )
    return value


def _check_name(name: object, names: tuple[str, ...] | list[str], what: str) -> None:
    if name not in names:
        near = difflib.get_close_matches(str(name), names, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise InvalidInput(f"{what} {name!r}", remedy=f"{hint}there are: {', '.join(names)}")
