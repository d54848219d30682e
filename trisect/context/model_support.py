"""Holds what is known of a model against devices: a graph piece by piece, a language model by its sizes, a list of
operators by what was found to compile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Literal

from trisect.partitioner.graph.model_graph import Graph
from trisect.partitioner.graph.model_loading import parse_proto
from trisect.partitioner.problem.device_support import refusals
from trisect.partitioner.problem.problem_builder import make_problem, task_graph
from trisect.profiles.capabilities.compile_verdicts import Capabilities
from trisect.profiles.capabilities.op_support_limits import known_limits, probe_limits
from trisect.profiles.costmodel.op_features import OpClass
from trisect.profiles.costmodel.profile_costs import ProfileCosts
from trisect.profiles.stored.profile_data import Profile
from trisect.runtime.device import Device
from trisect.runtime.errors import EngineMissing, ProfileMissing, UnsupportedOperator
from trisect.runtime.progress import Progress, no_progress

from .sources import Confidence, Description

Ability = Literal["yes", "partly", "no", "unknown"]
_NAMED = 3
_TOKENS = 1024
"""Tokens of context that a language model's memory is judged for."""
RANK: Mapping[str, int] = {"yes": 3, "unknown": 2, "partly": 1, "no": 0}
"""How much is an ability worth."""


@dataclass(frozen=True)
class DeviceVerdict:
    """One device's answer."""

    device: str
    ability: Ability
    """``yes``: all of it; ``partly``: some operators need another device; ``no``: nothing or too little memory."""
    reasons: tuple[str, ...] = ()
    latency_s: float | None = None
    """Predicted time of one run on this device alone; None where its costs are not measured."""
    prefill_tok_s: float | None = None
    decode_tok_s: float | None = None


@dataclass(frozen=True)
class Answer:
    """What is known of running a model here."""

    name: str
    kind: str
    """What was looked at."""
    ability: Ability
    """Of the devices together: ``partly`` on each may be ``yes`` for all."""
    devices: Mapping[str, DeviceVerdict]
    confidence: Confidence
    memory_bytes: int | None
    """Weights and, for a language model, the keys and values of a thousand tokens; None where nothing tells."""
    best_device: str | None
    """The quickest that runs all of it, or the first that does where no time is known."""
    notes: tuple[str, ...] = ()
    from_history: bool = False
    """Whether it was answered from an earlier answer or a measured run."""
    measured_latency_s: float | None = None
    """Median of the quickest run that happened here."""
    measured_devices: tuple[str, ...] = ()


def judge(
    description: Description,
    devices: Sequence[Device],
    profile: Profile,
    shapes: dict[str, int],
    progress: Progress = no_progress,
) -> Answer:
    """Every device's verdict on a model.

    Parameters
    ----------
    description : Description
    devices : sequence of Device
    profile : Profile
        Where speeds are predicted from.
    shapes : mapping of str to int
        Sizes of an ONNX graph's symbolic dimensions; those not given are taken as 1.
    progress : callable, optional
    """
    if description.graph is not None:
        return _judge_graph(description, devices, profile, shapes, progress)
    if description.is_language_model:
        return _judge_language_model(description, devices, profile)
    return _judge_operators(description, devices, progress)


def _judge_graph(
    description: Description,
    devices: Sequence[Device],
    profile: Profile,
    shapes: dict[str, int],
    progress: Progress,
) -> Answer:
    """A whole graph: the engines are asked about every piece of it."""
    assert description.graph is not None
    notes: tuple[str, ...] = ()
    graph, assumed = _read_graph(description.graph, shapes)
    if assumed:
        notes = (f"judged with {', '.join(f'{name} = 1' for name in assumed)}",)
    tasks = task_graph(graph)
    capabilities = Capabilities()
    refused = refusals(graph, tasks, devices, capabilities, progress)
    if capabilities.moved is not None:
        notes = (
            *notes,
            f"what devices had said was damaged: it is now {capabilities.moved}, and they were asked again",
        )
    costs = ProfileCosts(profile)
    verdicts: dict[str, DeviceVerdict] = {}
    for device in devices:
        against = {task: refused[task, device.id] for task in tasks if (task, device.id) in refused}
        memory = _too_large(description.weight_bytes, device)
        ability: Ability = "no" if memory or len(against) == len(tasks) > 0 else "partly" if against else "yes"
        reasons = [*([memory] if memory else []), *_told(against)]
        latency_s = None
        if ability == "yes":
            try:
                problem = make_problem(graph, [device], costs, tasks=tasks)
                latency_s = problem.overhead(device) + sum(problem.time(task, device) for task in tasks)
            except (ProfileMissing, UnsupportedOperator) as error:
                reasons.append(error.message)
        verdicts[device.id] = DeviceVerdict(
            device.id, ability, tuple(reasons), None if latency_s in (None, inf) else latency_s
        )
    nowhere = [task for task in tasks if all((task, device.id) in refused for device in devices)]
    together: Ability = "no" if nowhere or all(v.ability == "no" for v in verdicts.values()) else "yes"
    if nowhere:
        notes = (*notes, f"no device here runs {', '.join(map(repr, nowhere[:_NAMED]))}")
    return _answer(description, together, verdicts, description.weight_bytes, notes)


def _read_graph(path: Path, shapes: dict[str, int]) -> tuple[Graph, list[str]]:
    """The graph; symbolic dimensions that nobody gave are taken as 1."""
    proto = parse_proto(path)
    constants = {tensor.name for tensor in proto.graph.initializer}
    symbols: dict[str, None] = {}
    for value in proto.graph.input:
        if value.name in constants:
            continue
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            name = (
                dim.dim_param
                if dim.HasField("dim_param")
                else ""
                if dim.HasField("dim_value")
                else f"{value.name}.{axis}"
            )
            if name and name not in shapes and f"{value.name}.{axis}" not in shapes:
                symbols[name] = None
    return Graph.read(path, {**dict.fromkeys(symbols, 1), **shapes}), list(symbols)


def _told(against: Mapping[str, str]) -> list[str]:
    told = [f"{task!r}: {why}" for task, why in list(against.items())[:_NAMED]]
    return [*told, f"and {len(against) - _NAMED} more"] if len(against) > _NAMED else told


def _judge_language_model(description: Description, devices: Sequence[Device], profile: Profile) -> Answer:
    """A language model by its sizes: does it fit, and how fast do peak rates let it be."""
    needed = description.weight_bytes
    if needed is not None and description.cache_bytes_per_token is not None:
        needed += _TOKENS * description.cache_bytes_per_token
    verdicts: dict[str, DeviceVerdict] = {}
    for device in devices:
        memory = _too_large(needed, device)
        refused = description.refused or memory
        if not refused and device.engine not in ("ort", "openvino") and device.reality != "published":
            refused = "trisect runs language models with ONNX Runtime on the CPU and with OpenVINO"
        rates = profile.devices.get(device.id)
        prefill = decode = None
        if not refused and rates is not None and rates.peak_flops and description.parameters:
            prefill = rates.peak_flops / (2 * description.parameters)
        if not refused and rates is not None and description.decode_bytes:
            read = [p.size_bytes / p.time_s for p in rates.points if p.op_class is OpClass.MATVEC and p.size_bytes]
            decode = max(read) / description.decode_bytes if read else None
        ability: Ability = "no" if refused else "yes" if description.confidence != "low" else "unknown"
        verdicts[device.id] = DeviceVerdict(
            device.id, ability, (refused,) if refused else (), prefill_tok_s=prefill, decode_tok_s=decode
        )
    together = _best_ability(verdicts)
    notes = description.notes
    if any(v.prefill_tok_s or v.decode_tok_s for v in verdicts.values()):
        notes = (*notes, "speeds are limits, modelled from the devices' peak rates: what is reached is below")
    return _answer(description, together, verdicts, needed, notes)


def _judge_operators(description: Description, devices: Sequence[Device], progress: Progress) -> Answer:
    """A list of operators, each held against what the devices were found to take."""
    verdicts: dict[str, DeviceVerdict] = {}
    for device in devices:
        try:
            limits = known_limits(device) or probe_limits(device, progress=progress)
        except EngineMissing as error:
            verdicts[device.id] = DeviceVerdict(device.id, "unknown", (error.message,))
            continue
        by_lower = {name.lower(): found for name, found in limits.operators.items()}
        against = {}
        for name in sorted(description.operators):
            found = by_lower.get(name.lower())
            if found is None or not found.dtypes:
                against[name] = "ONNX has no such operator" if found is None else "it does not compile"
        memory = _too_large(description.weight_bytes, device)
        ability: Ability = "no" if memory or description.refused else "partly" if against else "yes"
        reasons = (
            *([memory] if memory else []),
            *([description.refused] if description.refused else []),
            *_told(against),
        )
        verdicts[device.id] = DeviceVerdict(device.id, ability, tuple(reasons))
    together = _best_ability(verdicts)
    return _answer(description, together, verdicts, description.weight_bytes, description.notes)


def _best_ability(verdicts: Mapping[str, DeviceVerdict]) -> Ability:
    abilities: list[Ability] = [verdict.ability for verdict in verdicts.values()]
    return max(abilities, key=RANK.__getitem__) if abilities else "no"


def _too_large(needed: int | None, device: Device) -> str:
    if needed is None or device.memory_bytes is None or needed <= device.memory_bytes:
        return ""
    return f"it needs {needed / 1e9:.3g} GB, and {device.id} has {device.memory_bytes / 1e9:.3g} GB"


def _answer(
    description: Description,
    ability: Ability,
    verdicts: Mapping[str, DeviceVerdict],
    memory_bytes: int | None,
    notes: tuple[str, ...],
) -> Answer:
    def worth(verdict: DeviceVerdict) -> tuple[int, float, float]:
        return (
            -RANK[verdict.ability],
            inf if verdict.latency_s is None else verdict.latency_s,
            -(verdict.decode_tok_s or verdict.prefill_tok_s or 0.0),
        )

    able = [verdict for verdict in verdicts.values() if verdict.ability in ("yes", "unknown")]
    best = min(able, key=worth).device if able else None
    return Answer(
        description.name, description.kind, ability, dict(verdicts), description.confidence, memory_bytes, best, notes
    )
