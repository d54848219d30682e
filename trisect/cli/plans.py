"""What several commands need of plans: a plan and a timeline as JSON, and ``--shape`` and array files from the user."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trisect.runtime.errors import InvalidInput

if TYPE_CHECKING:
    import numpy as np

    from trisect.runtime.plans.plan import Plan
    from trisect.runtime.plans.timeline import Timeline

_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0}


def parse_shapes(texts: Iterable[str]) -> dict[str, int]:
    """Read ``name=number`` pairs, several of them in one text when separated by commas.

    Raises
    ------
    InvalidInput
        With the text that is no such pair.

    Examples
    --------
    >>> parse_shapes(["batch=1,height=48", "width=320"])
    {'batch': 1, 'height': 48, 'width': 320}
    """
    shapes: dict[str, int] = {}
    for pair in filter(None, (part.strip() for text in texts for part in text.split(","))):
        name, _, number = pair.rpartition("=")
        if not name or not number.isascii() or not number.isdigit() or int(number) < 1:
            raise InvalidInput(f"{pair!r} is no shape", remedy="give name=number, as in --shape batch=1")
        shapes[name] = int(number)
    return shapes


def parse_span(text: str, option: str = "--budget") -> float:
    """A span of time as a user writes it, in seconds.

    Raises
    ------
    InvalidInput
        With the text that is none, and the option that it was given for.

    Examples
    --------
    >>> parse_span("90"), parse_span("30s"), parse_span("1.5m")
    (90.0, 30.0, 90.0)
    """
    number, factor = text.strip(), 1.0
    if number[-1:] in _UNITS_S:
        number, factor = number[:-1], _UNITS_S[number[-1]]
    try:
        value = float(number) * factor
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise InvalidInput(f"{option} {text!r} is no span of time", remedy="write it as 30s or 2m")
    return value


def describe(plan: Plan) -> dict[str, Any]:
    """A plan as the document that ``--json`` prints."""
    return {
        "model": plan.model,
        "folder": plan.folder,
        "strategy": plan.strategy,
        "objective": plan.objective,
        "seed": plan.seed,
        "shapes": dict(plan.shapes),
        "devices": plan.devices,
        "placement": dict(plan.placement),
        "segments": plan.segments,
        "transfers": plan.transfers,
        "predicted": describe_timeline(plan.predicted),
        "value": plan.value,
        "bound": plan.bound,
        "bound_by": plan.bound_by,
        "gap": plan.gap,
        "notes": plan.notes,
        "constraints": dict(plan.constraints),
        "time_limit_s": plan.time_limit_s,
        "machine": plan.machine,
    }


def describe_timeline(timeline: Timeline) -> dict[str, Any]:
    """A schedule or a trace as the document that ``--json`` prints."""
    return {
        "source": timeline.source,
        "latency_s": timeline.latency_s,
        "throughput_hz": timeline.throughput_hz,
        "energy_j": timeline.energy_j,
        "peak_bytes": timeline.peak_bytes,
        "peak_basis": timeline.peak_basis,
        "events": timeline.events,
    }


def read_feeds(file: Path) -> dict[str, np.ndarray]:
    """Arrays of an ``.npz`` file, by input name.

    Raises
    ------
    InvalidInput
        When it is missing, damaged, or holds pickled objects, which are not read.
    """
    import zipfile

    import numpy as np

    try:
        if file.exists() and not zipfile.is_zipfile(file):
            raise InvalidInput(f"{file} is no .npz file", remedy="store the arrays with numpy.savez(file, name=array)")
        with np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise InvalidInput(f"cannot read arrays from {file}: {error}") from error


def write_arrays(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Store arrays in an ``.npz`` file, which gets its name when it is whole.

    Raises
    ------
    InvalidInput
        For a list or an optional, which such a file cannot hold without pickling.
    StorageFailed
        Where the disk is full or forbids it.
    """
    import numpy as np

    from trisect.runtime.errors import StorageFailed

    for name, array in arrays.items():
        if array.dtype.kind == "O" and not all(isinstance(one, str) for one in array.ravel().tolist()):
            raise InvalidInput(f"{file} cannot hold {name!r}, which is a list", remedy="read it with Session.run")
    plain = {name: array.astype(str) if array.dtype.kind == "O" else array for name, array in arrays.items()}
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with aside.open("wb") as out:
            np.savez(out, allow_pickle=False, **plain)
        os.replace(aside, file)
    except OSError as error:
        raise StorageFailed(f"cannot write {file}: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink()
