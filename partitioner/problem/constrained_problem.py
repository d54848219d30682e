"""Applies constraints to a problem, or reports why they cannot be satisfied.

Strategies see the constrained problem only: a task's time is infinite where it must not run, and the problem's rules
say what stays together. So no strategy has to know of constraints, and no violation goes unnoticed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from math import inf

from trisect.runtime.device import Device, select
from trisect.runtime.errors import FallbackForbidden, InfeasibleProblem
from trisect.scheduler.problem.problem import Problem

from .constraints import Constraints
from .selectors import SelectorResolver, merged_groups, selected_devices

_NAMES_MAX = 3


def constrained(
    problem: Problem, constraints: Constraints, *, constants: Collection[str] = (), absent: Sequence[Device] = ()
) -> Problem:
    """Return the problem with constraints applied.

    Parameters
    ----------
    problem : Problem
        Its tasks may carry ``nodes`` (names of ONNX nodes in them) and ``operators`` or ``features``.
    constants : collection of str
        Nodes of the model that need not run: they may be named, without effect.
    absent : sequence of Device
        Devices that may be named though they are not available (any more).

    Raises
    ------
    InvalidInput
        For a selector that matches nothing, with the nearest that does.
    UnknownDevice
        For an unknown device.
    InfeasibleProblem
        When the constraints contradict each other or the capabilities of the devices.
    FallbackForbidden
        When only a CPU could run a task, and must not.

    Examples
    --------
    >>> import networkx as nx
    >>> cpu, gpu = Device("cpu:a", "cpu", "a", ""), Device("gpu:b", "gpu", "b", "")
    >>> problem = Problem.of(nx.DiGraph([("x", "y")]), [cpu, gpu], lambda task, device: 1.0)
    >>> narrow = constrained(problem, Constraints(force={"re:x.*": "gpu"}, forbid={"y": "gpu"}))
    >>> narrow.allowed("x"), narrow.allowed("y"), narrow.why_not["y", "gpu:b"]
    (['gpu:b'], ['cpu:a'], "forbidden by 'y'")
    """
    if constraints == Constraints():
        _check_memory(problem)
        return problem
    selectors = SelectorResolver(problem.graph, frozenset(constants))
    why_not = dict(problem.why_not)
    forced_to_cpu: set[str] = set()
    for selector, text in constraints.force.items():
        wanted = {device.id for device in selected_devices(text, problem.devices, absent)}
        for task in selectors.select(selector):
            for device in problem.devices:
                if device.id not in wanted:
                    why_not.setdefault((task, device.id), f"{selector!r} forces it to {text}")
                elif device.kind == "cpu":
                    forced_to_cpu.add(task)
    for selector, text in constraints.forbid.items():
        for task in selectors.select(selector):
            for device in selected_devices(text, problem.devices, absent):
                why_not.setdefault((task, device.id), f"forbidden by {selector!r}")
    groups = merged_groups(
        [selectors.select_all(group) for group in constraints.colocate] + list(problem.rules.colocated)
    )
    if not constraints.cpu_fallback:
        _check_fallback(problem, why_not, forced_to_cpu)
        cpus = [device.id for device in problem.devices if device.kind == "cpu"]
        for task in problem.graph:
            if task not in forced_to_cpu:
                why_not.update(
                    {(task, cpu): "no CPU fallback is allowed" for cpu in cpus if (task, cpu) not in why_not}
                )
    ids = problem.device_ids
    times = {}
    for task, row in problem.times_s.items():
        times[task] = tuple(inf if (task, d) in why_not else t for t, d in zip(row, ids, strict=True))
        if min(times[task]) == inf:
            raise InfeasibleProblem(
                f"no device is left for {_reasons(problem, task, why_not)}", remedy="loosen a constraint"
            )
    rules = replace(
        problem.rules,
        colocated=groups,
        contiguous=problem.rules.contiguous or constraints.contiguous,
        max_segments=min(
            (n for n in (problem.rules.max_segments, constraints.max_segments) if n is not None), default=None
        ),
    )
    narrow = replace(problem, times_s=times, rules=rules, why_not=why_not, devices=_with_memory(problem, constraints))
    _check_together(narrow)
    _check_memory(narrow)
    return narrow


def _check_fallback(problem: Problem, why_not: Mapping[tuple[str, str], str], forced_to_cpu: set[str]) -> None:
    """Refuse a problem with tasks that only a CPU can run."""
    others = [device.id for device in problem.devices if device.kind != "cpu"]
    if not others:
        raise FallbackForbidden(
            f"no device left without CPU fallback: only {', '.join(problem.device_ids)}",
            remedy="add a GPU or an NPU, or allow the fallback",
        )
    stuck = [
        task
        for task in problem.graph
        if task not in forced_to_cpu
        and all(problem.time(task, device) == inf or (task, device) in why_not for device in others)
    ]
    if stuck:
        more = f" and {len(stuck) - _NAMES_MAX} more" if len(stuck) > _NAMES_MAX else ""
        texts = [_reasons(problem, task, why_not, others) for task in stuck[:_NAMES_MAX]]
        raise FallbackForbidden(
            f"only a CPU could run {'; '.join(texts)}{more}", remedy="force them to the CPU, or allow the fallback"
        )


def _reasons(
    problem: Problem, task: str, why_not: Mapping[tuple[str, str], str], ids: Sequence[str] | None = None
) -> str:
    data = problem.graph.nodes[task]
    features = next(iter(data.get("operators", ())), data.get("features"))
    name = f"node {task!r}" + (f" ({features.op_type})" if features is not None else "")
    others = len(data.get("nodes", ())) - 1
    if others > 0:
        name += f", inseparable from {others} other node{'s' if others > 1 else ''}"
    reasons = [f"{d} ({why_not.get((task, d), 'cannot run it')})" for d in ids or problem.device_ids]
    return f"{name}: {', '.join(reasons)}"


def _with_memory(problem: Problem, constraints: Constraints) -> tuple[Device, ...]:
    memory_bytes = {device.id: device.memory_bytes for device in problem.devices}
    for text, limit in constraints.memory.items():
        named = select(text, problem.devices)
        for device in named:
            present = memory_bytes[device.id]
            memory_bytes[device.id] = limit if present is None else min(limit, present)
    return tuple(replace(device, memory_bytes=memory_bytes[device.id]) for device in problem.devices)


def _check_together(problem: Problem) -> None:
    for group in problem.rules.colocated:
        if not set.intersection(*(set(problem.allowed(task)) for task in group)):
            named = ", ".join(map(repr, group[:_NAMES_MAX])) + (", ..." if len(group) > _NAMES_MAX else "")
            raise InfeasibleProblem(
                f"no device may run all of {named}, which must run on one", remedy="loosen a constraint"
            )


def _check_memory(problem: Problem) -> None:
    """Refuse a problem whose weights fit into the memory under no placement."""
    memory_bytes = {d.id: inf if d.memory_bytes is None else float(d.memory_bytes) for d in problem.devices}
    for task in problem.graph:
        allowed = problem.allowed(task)
        needed = min(problem.held_bytes(task, device) for device in allowed)
        if all(problem.held_bytes(task, device) > memory_bytes[device] for device in allowed):
            fits = ", ".join(f"{device} {memory_bytes[device]:.0f}" for device in problem.allowed(task))
            raise InfeasibleProblem(
                f"the weights of {task!r} take {needed:.0f} bytes, more than the memory of any device ({fits})",
                remedy="give a device more memory, or add one",
            )
    total = sum(min(problem.held_bytes(task, device) for device in problem.allowed(task)) for task in problem.graph)
    if total > sum(memory_bytes.values()):
        raise InfeasibleProblem(
            f"the weights take {total:.0f} bytes, more than the {sum(memory_bytes.values()):.0f} of all devices",
            remedy="give a device more memory, or add one",
        )
