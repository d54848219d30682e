"""What a device can run: asked of its engine by compiling the very piece, and remembered on disk.

A vendor's own query can say yes and the compiler then no, so a trial compile is the only word that counts. It takes
milliseconds to seconds, and the answer is the same until the engine changes: it is kept by device, engine version and
the piece's operators, dtypes and shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from trisect.runtime.atomic_write import write_atomically
from trisect.runtime.device import Device
from trisect.runtime.engines import load
from trisect.runtime.engines.base import LoadOptions
from trisect.runtime.errors import EngineFailed, UnsupportedModel

from ..stored.profile_store import default_path

SCHEMA = 1
_SIZE_LIMIT_BYTES = 64 << 20
_REASON_LIMIT = 200


@dataclass(frozen=True)
class CompileProbe:
    """A piece of a model that a device may be able to run: a node, some that belong together, a segment."""

    key: str
    """Operators, dtypes and shapes: equal for pieces that a device treats alike."""
    model: Callable[[], Path | bytes]
    """The piece as an ONNX model; made only when nobody knows the answer."""
    dtypes: frozenset[str] = frozenset()
    """numpy's names of the dtypes that it computes in."""
    rank: int = 0
    """Highest of its tensors."""
    is_static: bool = True
    """Whether every shape is known before it runs."""


@dataclass(frozen=True)
class CompileVerdict:
    """A device's answer."""

    ok: bool
    reason: str = ""
    """Why not, in one line."""


class _File(msgspec.Struct):
    schema: int
    verdicts: dict[str, dict[str, str]] = msgspec.field(default_factory=dict)
    """Device, its name and its engine's version -> piece -> why not; empty = it can."""


@dataclass
class Capabilities:
    """Verdicts, those of earlier processes included.

    Parameters
    ----------
    path : Path, optional
        Where they are kept; beside the profiles when left out. A damaged file is moved aside, not mended.

    Examples
    --------
    >>> import tempfile
    >>> from onnx import parser
    >>> from trisect.runtime.engines import find_devices
    >>> text = '<ir_version: 10, opset_import: ["": 18]> g (float[2] x) => (float[2] y) { y = Neg(x) }'
    >>> piece = CompileProbe("Neg float32[2]", parser.parse_model(text).SerializeToString)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Capabilities(Path(folder) / "verdicts.json").supports(piece, find_devices("cpu:ort")[0]).ok
    True
    """

    path: Path = field(default_factory=lambda: default_path().parent / "capabilities.json")
    ask: Callable[[Path | bytes, Device], str] = field(default_factory=lambda: compile_failure)
    """Why a device cannot compile a model (empty where it can): by trying it here, or where the device is."""
    moved: Path | None = field(default=None, init=False)
    """Where a damaged file was put."""
    _known: dict[str, dict[str, str]] = field(init=False)
    _fresh: dict[str, dict[str, str]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._known = self._read()

    def known(self, candidate: CompileProbe, device: Device) -> CompileVerdict | None:
        """The answer, if nothing has to be compiled for it."""
        refused = _beyond_limits(candidate, device)
        if refused is None:
            refused = self._known.get(_identity(device), {}).get(candidate.key)
        return None if refused is None else CompileVerdict(not refused, refused)

    def verdicts(self, device: Device) -> Mapping[str, str]:
        """All answers of a device so far: piece -> why not; empty where it can."""
        return self._known.get(_identity(device), {})

    def supports(self, candidate: CompileProbe, device: Device) -> CompileVerdict:
        """Whether a device runs a piece, if need be by compiling it there.

        Raises
        ------
        EngineMissing
            When nobody can be asked: the device's engine is not installed here, or it is of a published machine.
        """
        verdict = self.known(candidate, device)
        if verdict is not None:
            return verdict
        return self.record(candidate, device, self.ask(candidate.model(), device))

    def record(self, candidate: CompileProbe, device: Device, reason: str = "") -> CompileVerdict:
        """Take an answer down that came about otherwise; no reason = the device can."""
        for table in (self._known, self._fresh):
            table.setdefault(_identity(device), {})[candidate.key] = reason
        return CompileVerdict(not reason, reason)

    def save(self) -> None:
        """Keep what was learned, with what other processes have learned meanwhile.

        Raises
        ------
        StorageFailed
            Disk full or no permission.
        """
        if not self._fresh:
            return
        merged = self._read()
        for device, verdicts in self._fresh.items():
            merged.setdefault(device, {}).update(verdicts)
        write_atomically(self.path, msgspec.json.format(msgspec.json.encode(_File(SCHEMA, merged)), indent=1))
        self._fresh = {}

    def _read(self) -> dict[str, dict[str, str]]:
        try:
            if self.path.stat().st_size > _SIZE_LIMIT_BYTES:
                raise ValueError("too large")
            found = msgspec.json.decode(self.path.read_bytes(), type=_File)
            if found.schema != SCHEMA:
                raise ValueError("of another version")
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, msgspec.DecodeError):  # UnicodeDecodeError is a ValueError
            self.moved = self.path.with_name(f"{self.path.name}.damaged")
            self.path.replace(self.moved)
            return {}
        return found.verdicts


def compile_failure(model: Path | bytes, device: Device) -> str:
    """Why a device cannot compile a model; empty where it can.

    Raises
    ------
    EngineMissing
        When the device's engine is not installed here, or the device is of a machine that is not at hand.
    """
    try:
        load(model, device, LoadOptions()).close()
    except (EngineFailed, UnsupportedModel) as error:
        return error.reason[:_REASON_LIMIT]
    return ""


def _identity(device: Device) -> str:
    return f"{device.local_id} | {device.name} | {device.engine} {device.engine_version}"


def _beyond_limits(candidate: CompileProbe, device: Device) -> str | None:
    """What the device refuses whatever the operator is; None where the operator decides."""
    limits = device.limits
    if limits.static_shapes and not candidate.is_static:
        return "it wants fixed shapes"
    if limits.maximum_rank is not None and candidate.rank > limits.maximum_rank:
        return f"it takes tensors of at most {limits.maximum_rank} dimensions, not {candidate.rank}"
    foreign = sorted(candidate.dtypes - set(limits.dtypes)) if limits.dtypes else []
    return f"it does not compute in {foreign[0]}" if foreign else None
