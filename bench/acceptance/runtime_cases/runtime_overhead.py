"""Overhead and speed-up of running a plan: calls, transfers, cuts, pipelines, long streams.

Each case measures both sides of a comparison interleaved, in one run, and returns a ratio or a difference of medians:
a slow or shared machine affects both sides alike.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trisect.runtime.engines import find_devices
from trisect.runtime.errors import InvalidInput

from . import runtime_calls, runtime_cuts, runtime_ray, runtime_streams
from .runtime_figure import RuntimeFigure


@dataclass(frozen=True)
class RuntimeBench:
    """All figures of a run, with machine and versions."""

    measured: tuple[RuntimeFigure, ...]
    machine: str
    versions: Mapping[str, str]
    source: str = "measured"

    @property
    def met(self) -> bool:
        """Whether every target is met."""
        return all(figure.met for figure in self.measured)


def bench_runtime(
    models: Path, only: Sequence[str] = (), show: Callable[[RuntimeFigure], None] | None = None
) -> RuntimeBench:
    """Measure the overhead of running plans on this machine.

    Parameters
    ----------
    models : Path
        Folder of real models; see `trisect.bench.models`.
    only : sequence of str
        Names of the cases to measure; all when empty.
    show : callable, optional
        Called with each figure as it is measured.

    Raises
    ------
    InvalidInput
        For an unknown case, or a model that is missing in the folder.
    """
    cases: dict[str, Callable[[Path], Iterator[RuntimeFigure]]] = {
        **runtime_calls.CASES,
        **runtime_cuts.CASES,
        **runtime_ray.CASES,
        **runtime_streams.CASES,
    }
    unknown = [name for name in only if name not in cases]
    if unknown:
        raise InvalidInput(f"no case {unknown[0]!r}", remedy=f"choose from {', '.join(cases)}")
    figures: list[RuntimeFigure] = []
    for name, case in cases.items():
        if only and name not in only:
            continue
        for figure in case(models):
            figures.append(figure)
            if show is not None:
                show(figure)
    devices = find_devices("cpu")
    versions = {device.engine: device.engine_version for device in devices} | {"python": platform.python_version()}
    return RuntimeBench(tuple(figures), devices[0].name, versions)
