"""Assesses whether devices can run a model, by what is known of it: a graph piece by piece, a language model by its
sizes, a list of operators by which of them compile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Literal

from trisect.llm.phases.model_memory import ModelMemory, described, host_cache_bytes, longest_context, memory_need
from trisect.partitioner.graph.ir_values import size_bytes
from trisect.partitioner.graph.model_graph import Graph
from trisect.partitioner.graph.model_loading import parse_proto
from trisect.partitioner.graph.shape_inference import real_inputs
from trisect.partitioner.planning.compared_devices import predict_alone
from trisect.partitioner.problem.device_support import refusals
from trisect.partitioner.problem.problem_builder import ProblemInputs
from trisect.partitioner.problem.task_grouping import task_graph
from trisect.profiles.capabilities.compile_verdicts import Capabilities
from trisect.profiles.capabilities.op_support_limits import cached_limits, probe_limits
from trisect.profiles.costmodel.op_features import OpClass
from trisect.profiles.costmodel.profile_costs import ProfileCosts
from trisect.profiles.stored.profile_data import Profile
from trisect.runtime import engines
from trisect.runtime.device import Device
from trisect.runtime.errors import EngineMissing, ProfileMissing, UnsupportedOperator
from trisect.runtime.progress import Progress, no_progress

from .sources.model_description import Confidence, ModelDescription

Ability = Literal["yes", "partly", "no", "unknown"]
_MAX_NAMED = 3
CONTEXT_TOKENS = 1024
"""Length of the context for which a language model's memory is assessed."""
ABILITY_RANK: Mapping[str, int] = {"yes": 3, "unknown": 2, "partly": 1, "no": 0}
"""Orders abilities, the best one highest."""


@dataclass(frozen=True)
class DeviceModelSupport:
    """Whether, and how fast, one device runs a model."""

    device: str
    """Device id."""
    ability: Ability
    """``yes``: all of it; ``partly``: some operators need another device; ``no``: nothing, or too little memory."""
    reasons: tuple[str, ...] = ()
    latency_s: float | None = None
    """Predicted latency on this device alone; None where its costs are not measured."""
    latency_interval_s: tuple[float, float] | None = None
    """Contains the measured latency with 90 % probability; None where that is not known."""
    prefill_tok_s: float | None = None
    decode_tok_s: float | None = None
    memory: ModelMemory | None = None
    """What a language model takes there: weights, KV cache and activations; None where it is unknown."""
    max_context_tokens: int | None = None
    """The longest context of a language model that fits; None where it is unknown."""


@dataclass(frozen=True)
class ModelSupport:
    """Whether, where and how fast the devices run a model."""

    name: str
    kind: str
    """What was examined; see `ModelDescription.kind`."""
    ability: Ability
    """Of the devices together: ``partly`` on each may be ``yes`` for all."""
    devices: Mapping[str, DeviceModelSupport]
    """By device id."""
    confidence: Confidence
    memory_bytes: int | None
    """Weights and, for a language model, the KV cache of the context in float16; None where it is unknown."""
    best_device: str | None
    """The fastest device that runs all of it, or the first one where no latency is known."""
    notes: tuple[str, ...] = ()
    from_history: bool = False
    """Whether it comes from an earlier answer or a measured run."""
    measured_latency_s: float | None = None
    """Median of the fastest recorded run."""
    measured_devices: tuple[str, ...] = ()
    context_tokens: int | None = None
    """Prompt and answer of a language model, for which memory was assessed."""


def assess_model(
    description: ModelDescription,
    devices: Sequence[Device],
    profile: Profile,
    shapes: dict[str, int],
    progress: Progress = no_progress,
    context_tokens: int = CONTEXT_TOKENS,
) -> ModelSupport:
    """Assess whether devices can run a model.

    Parameters
    ----------
    description : ModelDescription
    devices : sequence of Device
    profile : Profile
        Costs from which latencies are predicted.
    shapes : mapping of str to int
        Sizes of an ONNX graph's symbolic dimensions; the others are assumed to be 1.
    progress : callable, optional
    context_tokens : int
        Prompt and answer of a language model.
    """
    if description.graph is not None:
        return _assess_graph(description, description.graph, devices, profile, shapes, progress)
    if description.is_language_model:
        return _assess_language_model(description, devices, profile, context_tokens)
    return _assess_operators(description, devices, progress)


def _assess_graph(
    description: ModelDescription,
    path: Path,
    devices: Sequence[Device],
    profile: Profile,
    shapes: dict[str, int],
    progress: Progress,
) -> ModelSupport:
    """Assess a whole graph: each engine with enough memory for it compiles every piece of it."""
    notes: list[str] = []
    graph, assumed = _read_graph(path, shapes)
    if assumed:
        notes.append(f"assumed {', '.join(f'{name} = 1' for name in assumed)}")
    tasks = task_graph(graph)
    capabilities = Capabilities()
    boundary = {value.name: value for value in (*real_inputs(graph.model.graph), *graph.model.graph.outputs)}
    needed_bytes = (description.weight_bytes or 0) + sum(map(size_bytes, boundary.values()))
    shortages = {device.id: _memory_shortage(needed_bytes, device) for device in devices}
    fitting = [device for device in devices if not shortages[device.id]]
    # Only then: to ask a device takes as much memory as to run the model there.
    refused = refusals(graph, tasks, fitting, capabilities, progress) if fitting else {}
    if capabilities.moved is not None:
        notes.append(f"the capability cache was damaged: moved to {capabilities.moved}, devices probed again")
    costs = ProfileCosts(profile)
    support: dict[str, DeviceModelSupport] = {}
    for device in devices:
        refused_here = {task: refused[task, device.id] for task in tasks if (task, device.id) in refused}
        memory = shortages[device.id]
        is_none_run = len(refused_here) == len(tasks) > 0
        ability: Ability = "no" if memory or is_none_run else "partly" if refused_here else "yes"
        reasons = [*([memory] if memory else []), *_listed(refused_here)]
        prediction = None
        if ability == "yes":
            try:
                prediction = predict_alone(ProblemInputs(graph, tasks, (device,), costs), device.id)
            except (ProfileMissing, UnsupportedOperator) as error:
                reasons.append(error.message)
        latency_s, interval_s = prediction or (None, None)
        support[device.id] = DeviceModelSupport(device.id, ability, tuple(reasons), latency_s, interval_s)
    nowhere = [task for task in tasks if fitting and all((task, device.id) in refused for device in fitting)]
    together: Ability = "no" if nowhere or all(s.ability == "no" for s in support.values()) else "yes"
    if nowhere:
        notes.append(f"no device supports {', '.join(map(repr, nowhere[:_MAX_NAMED]))}")
    return _summary(description, together, support, description.weight_bytes, tuple(notes))


def _read_graph(path: Path, shapes: dict[str, int]) -> tuple[Graph, list[str]]:
    """Return the graph, and the symbolic dimensions without a size, which are assumed to be 1."""
    proto = parse_proto(path)
    constants = {tensor.name for tensor in proto.graph.initializer}
    symbols: dict[str, None] = {}
    for value in proto.graph.input:
        if value.name in constants:
            continue
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.HasField("dim_value"):
                continue
            positional = f"{value.name}.{axis}"
            name = dim.dim_param if dim.HasField("dim_param") else positional
            if name and name not in shapes and positional not in shapes:
                symbols[name] = None
    return Graph.read(path, {**dict.fromkeys(symbols, 1), **shapes}), list(symbols)


def _listed(refused: Mapping[str, str]) -> list[str]:
    """Return the first few refused tasks or operators with their reasons, and how many more there are."""
    lines = [f"{name!r}: {reason}" for name, reason in list(refused.items())[:_MAX_NAMED]]
    return [*lines, f"and {len(refused) - _MAX_NAMED} more"] if len(refused) > _MAX_NAMED else lines


def _assess_language_model(
    description: ModelDescription, devices: Sequence[Device], profile: Profile, context_tokens: int
) -> ModelSupport:
    """Assess a language model by its sizes: whether it fits, and the limits that peak rates set to its speed."""
    context_tokens = min(context_tokens, description.context_length or context_tokens)
    needed = description.weight_bytes
    if needed is not None and description.sizes is not None:
        needed += host_cache_bytes(description.sizes, context_tokens)
    elif needed is not None and description.cache_bytes_per_token is not None:
        needed += context_tokens * description.cache_bytes_per_token
    support: dict[str, DeviceModelSupport] = {}
    for device in devices:
        # Of a published machine it is not known how its engines hold weights.
        sizes = description.sizes if device.reality != "published" else None
        memory = memory_need(sizes, (device,), context_tokens) if sizes is not None else None
        fits = None
        if sizes is not None and device.memory_bytes is not None:
            fits = longest_context(sizes, (device,), device.memory_bytes)
        if memory is None or device.memory_bytes is None:
            shortage = _memory_shortage(needed, device)
        elif memory.total_bytes > device.memory_bytes:
            at_most = f"; a context of {fits} tokens fits" if fits else ""
            has = f"{device.memory_bytes / 1e9:.3g} GB"
            shortage = f"{described(memory, (device,), context_tokens)}, but it has {has}{at_most}"
        else:
            shortage = ""
        refused = description.refused or shortage
        if not refused and device.reality != "published" and not engines.decoder_support(device).modes:
            refused = f"it {engines.decoder_support(device).reason}"
        rates = profile.devices.get(device.id)
        prefill = decode = None
        if not refused and rates is not None and rates.peak_flops and description.parameters:
            prefill = rates.peak_flops / (2 * description.parameters)
        if not refused and rates is not None and description.decode_bytes:
            read = [p.size_bytes / p.time_s for p in rates.points if p.op_class is OpClass.MATVEC and p.size_bytes]
            decode = max(read) / description.decode_bytes if read else None
        ability: Ability = "no" if refused else "yes" if description.confidence != "low" else "unknown"
        support[device.id] = DeviceModelSupport(
            device.id, ability, (refused,) if refused else (), prefill_tok_s=prefill, decode_tok_s=decode,
            memory=memory, max_context_tokens=fits,
        )  # fmt: skip
    notes = description.notes
    if any(s.prefill_tok_s or s.decode_tok_s for s in support.values()):
        notes = (*notes, "speeds are upper limits, modelled from the devices' peak rates")
    answer = _summary(description, _best_ability(support), support, needed, notes)
    return replace(answer, context_tokens=context_tokens)


def _assess_operators(description: ModelDescription, devices: Sequence[Device], progress: Progress) -> ModelSupport:
    """Assess a list of operators by which of them compile on each device."""
    support: dict[str, DeviceModelSupport] = {}
    for device in devices:
        try:
            limits = cached_limits(device) or probe_limits(device, progress=progress)
        except EngineMissing as error:
            support[device.id] = DeviceModelSupport(device.id, "unknown", (error.message,))
            continue
        by_lower = {name.lower(): operator for name, operator in limits.operators.items()}
        refused: dict[str, str] = {}
        for name in sorted(description.operators):
            operator = by_lower.get(name.lower())
            if operator is None or not operator.dtypes:
                refused[name] = "not an ONNX operator" if operator is None else "does not compile"
        memory = _memory_shortage(description.weight_bytes, device)
        ability: Ability = "no" if memory or description.refused else "partly" if refused else "yes"
        reasons = (*filter(None, (memory, description.refused)), *_listed(refused))
        support[device.id] = DeviceModelSupport(device.id, ability, reasons)
    return _summary(description, _best_ability(support), support, description.weight_bytes, description.notes)


def _best_ability(support: Mapping[str, DeviceModelSupport]) -> Ability:
    abilities: list[Ability] = [one.ability for one in support.values()]
    return max(abilities, key=ABILITY_RANK.__getitem__) if abilities else "no"


def _memory_shortage(needed_bytes: int | None, device: Device) -> str:
    """Return why a model does not fit into a device's memory; empty where it does, or nothing is known."""
    if needed_bytes is None or device.memory_bytes is None or needed_bytes <= device.memory_bytes:
        return ""
    return f"needs {needed_bytes / 1e9:.3g} GB, but {device.id} has {device.memory_bytes / 1e9:.3g} GB"


def _summary(
    description: ModelDescription,
    ability: Ability,
    support: Mapping[str, DeviceModelSupport],
    memory_bytes: int | None,
    notes: tuple[str, ...],
) -> ModelSupport:
    def preference(one: DeviceModelSupport) -> tuple[int, float, float]:
        return (
            -ABILITY_RANK[one.ability],
            inf if one.latency_s is None else one.latency_s,
            -(one.decode_tok_s or one.prefill_tok_s or 0.0),
        )

    able = [one for one in support.values() if one.ability in ("yes", "unknown")]
    best = min(able, key=preference).device if able else None
    return ModelSupport(
        description.name, description.kind, ability, dict(support), description.confidence, memory_bytes, best, notes
    )
