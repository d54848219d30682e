"""Measures the table of value trials that comes with the package: see `trisect.profiles.capabilities.shipped_results`.

Tried are the operators of ``onnx.backend.test``, of real models and of the synthetic networks, by the trials that a
split makes. In addition each engine runs the suite's cases on the cases' own inputs: a failure counts as different.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx

from trisect.partitioner.graph.model_graph import Graph
from trisect.partitioner.problem.task_grouping import nodes_of_tasks, task_graph
from trisect.partitioner.problem.trial_units import TrialUnits
from trisect.partitioner.problem.value_ranges import INT32_RANGE, value_ranges
from trisect.partitioner.problem.value_support import try_unit
from trisect.profiles.capabilities.compile_verdicts import Capabilities, compile_failure
from trisect.profiles.capabilities.op_support_limits import compare_limit, limit_trials
from trisect.profiles.capabilities.shipped_results import ResultsTable, make_table
from trisect.profiles.capabilities.trial_feeds import is_random
from trisect.profiles.capabilities.value_trials import Judges, TrialResult, judge_once
from trisect.profiles.synthetic_networks import synthetic_network
from trisect.runtime.device import Device
from trisect.runtime.engines import find_devices, load
from trisect.runtime.engines.base import LoadOptions, Module
from trisect.runtime.errors import EngineFailed, TrisectError, UnsupportedModel
from trisect.runtime.progress import Progress, no_progress
from trisect.runtime.tensors.containers import pack, unpack

from .conformance_cases import ConformanceCase, conformance_cases
from .onnx_backend import temporary_onnx_home

DEVICES = "cpu:ort,cpu:openvino"
NETWORKS = 60
_SAVE_EVERY = 50


_Examined = tuple[Path, Mapping[str, int], ConformanceCase | None]
_Source = Callable[[Path], _Examined]


@dataclass(frozen=True)
class _Assumptions:
    """What a split can assume of the values of a model."""

    narrow: bool
    finite: bool


_ASSUMPTIONS = (_Assumptions(False, True), _Assumptions(False, False), _Assumptions(True, True))


@dataclass(frozen=True)
class _Instance:
    """Nodes under assumptions."""

    units: TrialUnits
    key: str
    assumptions: _Assumptions


@dataclass
class _Results:
    """Results so far, in a file, so that an interrupted measurement goes on."""

    path: Path
    outcomes: dict[str, dict[str, TrialResult]] = field(default_factory=dict)
    """Device id -> key -> result."""
    examined: list[str] = field(default_factory=list)

    def load(self) -> None:
        if self.path.exists():
            stored = msgspec.json.decode(
                self.path.read_bytes(), type=tuple[dict[str, dict[str, TrialResult]], list[str]]
            )
            self.outcomes, self.examined = stored

    def save(self) -> None:
        self.path.write_bytes(msgspec.json.encode((self.outcomes, self.examined)))

    def get(self, device: Device, key: str) -> TrialResult | None:
        return self.outcomes.get(device.id, {}).get(key)

    def put(self, device: Device, key: str, result: TrialResult) -> None:
        self.outcomes.setdefault(device.id, {})[key] = result


def measure_table(
    store: Path, models: Sequence[tuple[Path, Mapping[str, int]]], progress: Progress = no_progress
) -> ResultsTable:
    """Measure the table.

    Parameters
    ----------
    store : Path
        File for the results so far.
    models : sequence of (Path, mapping)
        Real models, with the sizes of their symbolic dimensions.
    """
    results = _Results(store)
    results.load()
    devices = find_devices(DEVICES)
    sources: list[tuple[str, _Source]] = [(path.name, partial(_of_model, path, shapes)) for path, shapes in models]
    sources += [(f"network {number}", partial(_of_network, number)) for number in range(NETWORKS)]
    with temporary_onnx_home(), np.errstate(all="ignore"):
        for case in conformance_cases():
            sources.append((case.name, partial(_of_case, case)))
        for done, (name, source) in enumerate(sources):
            if name in results.examined:
                continue
            progress(done, len(sources), name)
            with tempfile.TemporaryDirectory(prefix="trisect-table-") as folder, contextlib.suppress(TrisectError):
                _examine(*source(Path(folder)), devices, results, Path(folder))
            results.examined.append(name)
            if done % _SAVE_EVERY == 0:
                results.save()
        for key, content, letters in limit_trials():
            for device in devices:
                if results.get(device, key) is None and not compile_failure(content, device):
                    results.put(
                        device, key, compare_limit(content, letters, device, Capabilities(store.with_suffix(".none")))
                    )
    results.save()
    measured = f"{datetime.now(UTC).date().isoformat()}, {devices[0].name}"
    by_id = {device.id: device for device in devices}
    flat = [(key, by_id[d], result) for d, outcomes in results.outcomes.items() for key, result in outcomes.items()]
    return make_table(measured, flat)


def _of_model(path: Path, shapes: Mapping[str, int], folder: Path) -> _Examined:
    return path, shapes, None


def _of_network(number: int, folder: Path) -> _Examined:
    return _written(folder, synthetic_network(number)), {}, None


def _of_case(case: ConformanceCase, folder: Path) -> _Examined:
    own_inputs = case if case.kind != "Real" else None  # numpy would take minutes
    return _written(folder, case.model.SerializeToString()), case.shapes, own_inputs


def _written(folder: Path, content: bytes) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(content)
    return path


def _examine(
    path: Path,
    shapes: Mapping[str, int],
    case: ConformanceCase | None,
    devices: Sequence[Device],
    results: _Results,
    folder: Path,
) -> None:
    graph = Graph.read(path, shapes)
    members = nodes_of_tasks(task_graph(graph, keep_quantised=False))
    capabilities = Capabilities(folder / "none.json")
    instances: dict[tuple[str, ...], list[_Instance]] = {}
    for assumptions in _ASSUMPTIONS:
        units = TrialUnits(graph, value_ranges(graph, narrow=assumptions.narrow, finite=assumptions.finite))
        for unit in dict.fromkeys(unit for nodes in members.values() for unit in units.of_task(nodes)):
            instances.setdefault(unit.nodes, []).append(_Instance(units, unit.key, assumptions))
    for nodes, same in instances.items():
        for device in devices:
            unknown = [one for one in same if results.get(device, one.key) is None]
            model = same[0].units.model(nodes) if unknown else None
            if model is None or compile_failure(model.SerializeToString(), device):
                continue
            for one in unknown:
                results.put(device, one.key, try_unit(one.units, nodes, device, capabilities, folder))
    if case is not None and not is_random(case.model):
        for nodes, device, feeds, result in _case_failures(case, instances, devices, folder):
            for one in instances[nodes]:
                kinds = one.units.kinds(nodes)
                if all(graph.nodes[node].op_type in ("Cast", "CastLike") for node in nodes):
                    kinds = {name: f"{kinds.get(name, '')}+-n" for name in feeds}  # saturation is part of a cast
                if _agrees(feeds, kinds, one.assumptions):
                    results.put(device, one.key, result)


def _case_failures(
    case: ConformanceCase,
    instances: Mapping[tuple[str, ...], Sequence[_Instance]],
    devices: Sequence[Device],
    folder: Path,
) -> Iterator[tuple[tuple[str, ...], Device, Mapping[str, Any], TrialResult]]:
    """Yield the units that fail the case on its own inputs, with the device, these inputs, and the result."""
    if len(instances) == 1:
        (nodes,) = instances
        for device in devices:
            with contextlib.suppress(EngineFailed, UnsupportedModel):
                module = load(case.model.SerializeToString(), device, LoadOptions(threads=1))
                with closing(module):
                    for data in case.data_sets:
                        feeds = case.feeds(data)
                        reason = f"it fails {case.name} of onnx.backend.test"
                        try:
                            values = module.run(_packed_feeds(module, feeds))
                        except EngineFailed:
                            yield nodes, device, feeds, TrialResult("failed", reason)
                            continue
                        if data.mismatch([unpack(s.dtype, values[s.name]) for s in module.outputs]):
                            yield nodes, device, feeds, TrialResult("different", reason)
        return
    intermediate = _intermediate_values(case)
    for nodes, same in instances.items():
        units = same[0].units
        model = units.model(nodes)
        if model is None or intermediate is None or is_random(model):
            continue
        constants = {tensor.name for tensor in model.graph.initializer}
        names = [v.name for v in model.graph.input if v.name not in constants]
        if not all(name in intermediate for name in names):
            continue
        feeds = {name: intermediate[name] for name in names}
        path = _written(folder, model.SerializeToString())
        for device in devices:
            with contextlib.ExitStack() as stack, contextlib.suppress(TrisectError):
                module = stack.enter_context(closing(load(path, device, LoadOptions(threads=1))))
                reference_model = path if units.use_reference(nodes) and not units.is_old(nodes) else None
                judges = Judges(str(path), device, stack, reference_model=reference_model)
                if judge_once(model, module, judges, _packed_feeds(module, feeds)).outcome in ("different", "failed"):
                    reason = f"it fails on values of {case.name} of onnx.backend.test"
                    yield nodes, device, feeds, TrialResult("different", reason)


def _agrees(feeds: Mapping[str, Any], kinds: Mapping[str, str], assumptions: _Assumptions) -> bool:
    """Return whether feeds hold only what the assumptions allow; kinds are those of the inputs."""
    for name, value in feeds.items():
        if not isinstance(value, np.ndarray) or not value.size or value.dtype.kind not in "iufV":
            continue
        if value.dtype.kind in "iu":
            is_narrow = INT32_RANGE[0] <= int(value.min()) and int(value.max()) <= INT32_RANGE[1]
            if assumptions.narrow and not is_narrow:
                return False
        elif assumptions.finite and not set("+-n") & set(kinds.get(name, "")):
            with contextlib.suppress(TypeError):
                if not np.isfinite(value.astype(np.float64)).all():
                    return False
    return True


def _packed_feeds(module: Module, feeds: Mapping[str, Any]) -> dict[str, np.ndarray]:
    specs = [spec for spec in module.inputs if spec.name in feeds]
    return {s.name: pack(s.dtype, feeds[s.name]) if "(" in s.dtype else np.asarray(feeds[s.name]) for s in specs}


def _intermediate_values(case: ConformanceCase) -> dict[str, Any] | None:
    """Return all values of a case as ONNX's reference computes them; None where it cannot."""
    try:
        model = onnx.shape_inference.infer_shapes(case.model)
        known = {value.name for value in (*model.graph.value_info, *model.graph.output)}
        extended = onnx.ModelProto()
        extended.CopyFrom(case.model)
        del extended.graph.output[:]
        names = [name for node in model.graph.node for name in node.output if name in known]
        extended.graph.output.extend(
            next(v for v in (*model.graph.value_info, *model.graph.output) if v.name == name) for name in names
        )
        with closing(load(extended.SerializeToString(), find_devices("cpu:reference")[0])) as module:
            feeds = case.feeds(case.data_sets[0])
            values = module.run(_packed_feeds(module, feeds))
            return {**feeds, **{s.name: unpack(s.dtype, values[s.name]) for s in module.outputs}}
    except (TrisectError, onnx.shape_inference.InferenceError, StopIteration, KeyError):
        return None
