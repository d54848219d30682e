"""What running a plan costs beyond its engines: calls, hand-overs, cuts, pipelines, long streams.

Each case measures what is compared in turns, in one run, and gives a ratio or a difference of medians: the machine may
be slow or shared, but it is so for both sides.
"""

from __future__ import annotations

import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from trisect.runtime.device import Device
from trisect.runtime.engines import find_devices
from trisect.runtime.errors import InvalidInput
from trisect.runtime.plans.plan import Plan
from trisect.runtime.plans.plan_parts import Segment
from trisect.runtime.plans.timeline import Timeline
from trisect.runtime.tensors.tensor_spec import TensorSpec

from ..model_packages import PACKAGES

Show = Callable[["Measured"], None]


@dataclass(frozen=True)
class Measured:
    """One figure beside what was promised of it."""

    case: str
    what: str
    value: float
    unit: str
    promised: float
    at_most: bool
    """Whether the promise is an upper bound; else it is a lower one."""
    detail: Mapping[str, float] = field(default_factory=dict)
    """What the figure is made of, with the unit in each name."""

    @property
    def met(self) -> bool:
        return self.value <= self.promised if self.at_most else self.value >= self.promised


@dataclass(frozen=True)
class RuntimeBench:
    """All figures of a run, and where it was made."""

    measured: tuple[Measured, ...]
    machine: str
    versions: Mapping[str, str]
    source: str = "measured"

    @property
    def met(self) -> bool:
        return all(found.met for found in self.measured)


def bench_runtime(models: Path, only: Sequence[str] = (), show: Show | None = None) -> RuntimeBench:
    """Measure what running plans costs on this machine.

    Parameters
    ----------
    models : Path
        Folder of real models; see `trisect.bench.models`.
    only : sequence of str
        Names of the cases to measure; all when empty.
    show : callable, optional
        Told of each figure as it comes.

    Raises
    ------
    InvalidInput
        For a case that there is not, or a model that is not in the folder.
    """
    from . import runtime_calls, runtime_cuts, runtime_ray, runtime_streams

    cases: dict[str, Callable[[Path], Iterator[Measured]]] = {
        **runtime_calls.CASES,
        **runtime_cuts.CASES,
        **runtime_ray.CASES,
        **runtime_streams.CASES,
    }
    unknown = [name for name in only if name not in cases]
    if unknown:
        raise InvalidInput(f"there is no case {unknown[0]!r}", remedy=f"use some of {', '.join(cases)}")
    found: list[Measured] = []
    for name, case in cases.items():
        if only and name not in only:
            continue
        for measured in case(models):
            found.append(measured)
            if show is not None:
                show(measured)
    devices = find_devices("cpu")
    versions = {device.engine: device.engine_version for device in devices} | {"python": platform.python_version()}
    return RuntimeBench(tuple(found), devices[0].name, versions)


def in_turns(calls: Mapping[str, Callable[[], Any]], rounds: int, repeat: int = 1) -> dict[str, list[float]]:
    """Seconds that each call took, in every round one after the other; the first round warms up and does not count."""

    def taken_s(call: Callable[[], Any]) -> float:
        begun = time.perf_counter()
        for _ in range(repeat):
            call()
        return (time.perf_counter() - begun) / repeat

    return told_in_turns({name: partial(taken_s, call) for name, call in calls.items()}, rounds)


def told_in_turns(calls: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """The same for calls that say themselves how many seconds count."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            taken_s = call()
            if turn:
                times[name].append(taken_s)
    return times


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Median of the ratios of what was measured in the same rounds."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def device(name: str) -> Device:
    """One device of this machine."""
    return find_devices(name)[0]


def model_in(folder: Path, name: str) -> Path:
    """A real model.

    Raises
    ------
    InvalidInput
        When it is not there, with the command that gets it.
    """
    path = folder / name
    if not path.is_file():
        package = next(key for key, found in PACKAGES.items() if name in {file.name for file in found.files})
        remedy = f"get it with: python -m trisect.bench.models {package} --to {folder}"
        raise InvalidInput(f"{name} is not in {folder}", remedy=remedy)
    return path


def chain(devices: Sequence[Device], elements: int, folder: Path, objective: str = "latency") -> Plan:
    """A plan of segments in a row, each of one cheap operator on vectors of floats."""
    names = [f"t{index}" for index in range(len(devices) + 1)]
    specs = [TensorSpec(name, "float32", (elements,)) for name in names]
    segments = []
    for index, where in enumerate(devices):
        file = folder / f"{len(devices)}-{elements}-{index}.onnx"
        file.write_bytes(_negation(names[index], names[index + 1], elements))
        ends = (specs[index],), (specs[index + 1],)
        segments.append(Segment(index, where.id, (f"negate {index}",), *ends, file.name))
    return plan_of(devices, segments, (specs[0],), (specs[-1],), folder, objective)


def plan_of(
    devices: Sequence[Device],
    segments: Sequence[Segment],
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    folder: Path,
    objective: str = "latency",
) -> Plan:
    """A plan by hand."""
    used = tuple({where.id: where for where in devices}.values())
    return Plan(
        model="bench", model_sha256="", devices=used, placement={}, segments=tuple(segments), transfers=(),
        inputs=inputs, outputs=outputs, strategy="by hand", objective=objective, seed=0, shapes={},
        predicted=Timeline.of([], source="predicted"), value=0.0, bound=0.0, folder=str(folder),
    )  # fmt: skip


def workspace() -> tempfile.TemporaryDirectory[str]:
    """A folder for the time of a case."""
    return tempfile.TemporaryDirectory(prefix="trisect-bench-")


def image(*shape: int) -> np.ndarray:
    """An input that does not vary between runs."""
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def _negation(source: str, target: str, elements: int) -> bytes:
    graph = helper.make_graph(
        [helper.make_node("Neg", [source], [target])],
        "negation",
        [helper.make_tensor_value_info(source, TensorProto.FLOAT, [elements])],
        [helper.make_tensor_value_info(target, TensorProto.FLOAT, [elements])],
    )
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString()
