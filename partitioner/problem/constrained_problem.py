"""Problem + Constraints -> a narrower Problem, or the one line that says why there is none.

Every strategy sees only the narrower problem: where work must not go, its time is infinite, and the problem's rules say
what stays together. So no strategy has to know of constraints, and none can break one unseen.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf

from trisect.profiles.costmodel.op_features import OpClass, OpFeatures
from trisect.runtime.device import Device, select
from trisect.runtime.errors import FallbackForbidden, InfeasibleProblem, InvalidInput
from trisect.scheduler.problem.problem import Problem

from .constraints import Constraints

_NAMED = 3


def constrained(
    problem: Problem, constraints: Constraints, *, constants: Collection[str] = (), absent: Sequence[Device] = ()
) -> Problem:
    """The problem with fewer choices.

    Parameters
    ----------
    problem : Problem
        Its tasks may carry ``nodes`` (names of ONNX nodes in them) and ``work`` or ``features``.
    constraints : Constraints
    constants : collection of str
        Nodes of the model that are no work: they may be named, and nothing follows from it.
    absent : sequence of Device
        Devices that may be named though they are not there (any more).

    Raises
    ------
    InvalidInput
        For a selector that selects nothing, with the nearest that would.
    UnknownDevice
        For a device that is not there.
    InfeasibleProblem
        When the constraints contradict each other, or what the devices can.
    FallbackForbidden
        When only a CPU could run something, and must not.

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
    names = _Names(problem, frozenset(constants))
    why_not = dict(problem.why_not)
    forced_to_cpu: set[str] = set()
    for selector, text in constraints.force.items():
        wanted = {device.id for device in _devices(text, problem, absent)}
        for task in names.select(selector):
            for device in problem.devices:
                if device.id not in wanted:
                    why_not.setdefault((task, device.id), f"{selector!r} forces it to {text}")
                elif device.kind == "cpu":
                    forced_to_cpu.add(task)
    for selector, text in constraints.forbid.items():
        for task in names.select(selector):
            for device in _devices(text, problem, absent):
                why_not.setdefault((task, device.id), f"forbidden by {selector!r}")
    groups = _merged([names.select_all(group) for group in constraints.colocate] + list(problem.rules.colocated))
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


@dataclass(frozen=True)
class _Names:
    """What selectors may name."""

    problem: Problem
    constants: frozenset[str]

    def select(self, selector: str) -> list[str]:
        """Tasks that a selector selects."""
        kind, _, wanted = selector.partition(":")
        tasks = self.problem.graph.nodes(data=True)
        if kind == "re" and wanted:
            try:
                pattern = re.compile(wanted)
            except re.error as error:
                raise InvalidInput(f"{selector!r} is no regular expression: {error}", remedy="correct it") from error
            found = [t for t, data in tasks if any(pattern.fullmatch(n) for n in _nodes(t, data))]
            return found or self._nothing(selector, wanted, [], any(map(pattern.fullmatch, self.constants)))
        if kind == "op" and wanted:
            types = {task: {f.op_type for f in _work(data)} for task, data in tasks}
            found = [t for t, ops in types.items() if wanted in ops | {op.rpartition("::")[2] for op in ops}]
            return found or self._nothing(selector, wanted, {op for ops in types.values() for op in ops})
        if kind == "class" and wanted:
            if wanted not in {op_class.value for op_class in OpClass}:
                self._nothing(selector, wanted, [op_class.value for op_class in OpClass])
            classes = {task: data["features"].op_class.value for task, data in tasks if "features" in data}
            found = [task for task, op_class in classes.items() if op_class == wanted]
            return found or self._nothing(selector, wanted, set(classes.values()))
        owner = {node: task for task, data in tasks for node in _nodes(task, data)}
        if selector in owner:
            return [owner[selector]]
        return self._nothing(selector, selector, owner, selector in self.constants)

    def select_all(self, selectors: Iterable[str]) -> tuple[str, ...]:
        """Tasks that any of some selectors selects, in the graph's order."""
        chosen = {task for selector in selectors for task in self.select(selector)}
        return tuple(task for task in self.problem.graph if task in chosen)

    def _nothing(self, selector: str, wanted: str, there: Iterable[str], is_constant: bool = False) -> list[str]:
        if is_constant:
            return []
        near = difflib.get_close_matches(wanted, sorted(there), n=1, cutoff=0.4)
        prefix = selector.partition(":")[0] + ":" if wanted != selector else ""
        remedy = (
            f"did you mean {prefix + near[0]!r}?" if near else "leave it out, or look at the names with trisect explain"
        )
        raise InvalidInput(f"the constraint {selector!r} matches nothing in this model", remedy=remedy)


def _nodes(task: str, data: Mapping[str, object]) -> tuple[str, ...]:
    nodes = data.get("nodes")
    return nodes if isinstance(nodes, tuple) else (task,)


def _work(data: Mapping[str, object]) -> tuple[OpFeatures, ...]:
    work = data.get("work") or ((data["features"],) if data.get("features") is not None else ())
    return work if isinstance(work, tuple) else ()


def _devices(text: str, problem: Problem, absent: Sequence[Device]) -> list[Device]:
    """Those that a rule names and that are there."""
    found = select(text, [*problem.devices, *absent])
    return [device for device in found if device.id in problem.device_ids]


def _merged(groups: Iterable[Iterable[str]]) -> tuple[tuple[str, ...], ...]:
    """Groups that share a member are one."""
    merged: list[list[str]] = []
    for group in map(list, groups):
        touching = [other for other in merged if not set(other).isdisjoint(group)]
        merged = [other for other in merged if other not in touching]
        merged.append(list(dict.fromkeys([*(task for other in touching for task in other), *group])))
    return tuple(tuple(group) for group in merged if len(group) > 1)


def _check_fallback(problem: Problem, why_not: Mapping[tuple[str, str], str], forced_to_cpu: set[str]) -> None:
    """Say what would fall back to the CPU."""
    others = [device.id for device in problem.devices if device.kind != "cpu"]
    if not others:
        raise FallbackForbidden(
            f"without CPU fallback there is no device left: only {', '.join(problem.device_ids)}",
            remedy="add a GPU or an NPU, or allow the fallback",
        )
    stuck = [
        task
        for task in problem.graph
        if task not in forced_to_cpu
        and all(problem.time(task, device) == inf or (task, device) in why_not for device in others)
    ]
    if stuck:
        more = f" and {len(stuck) - _NAMED} more" if len(stuck) > _NAMED else ""
        texts = [_reasons(problem, task, why_not, others) for task in stuck[:_NAMED]]
        raise FallbackForbidden(
            f"only a CPU could run {'; '.join(texts)}{more}", remedy="force them to the CPU, or allow the fallback"
        )


def _reasons(
    problem: Problem, task: str, why_not: Mapping[tuple[str, str], str], ids: Sequence[str] | None = None
) -> str:
    features = problem.graph.nodes[task].get("features")
    name = f"node {task!r}" + (f" ({features.op_type})" if features is not None else "")
    reasons = [f"{d} ({why_not.get((task, d), 'cannot run it')})" for d in ids or problem.device_ids]
    return f"{name}: {', '.join(reasons)}"


def _with_memory(problem: Problem, constraints: Constraints) -> tuple[Device, ...]:
    room = {device.id: device.memory_bytes for device in problem.devices}
    for text, limit in constraints.memory.items():
        named = select(text, problem.devices)
        for device in named:
            there = room[device.id]
            room[device.id] = limit if there is None else min(limit, there)
    return tuple(replace(device, memory_bytes=room[device.id]) for device in problem.devices)


def _check_together(problem: Problem) -> None:
    for group in problem.rules.colocated:
        if not set.intersection(*(set(problem.allowed(task)) for task in group)):
            named = ", ".join(map(repr, group[:_NAMED])) + (", ..." if len(group) > _NAMED else "")
            raise InfeasibleProblem(f"no device may run all of {named}, which must be together", remedy="loosen one")


def _check_memory(problem: Problem) -> None:
    """What cannot fit whatever the placement."""
    rooms = {d.id: inf if d.memory_bytes is None else float(d.memory_bytes) for d in problem.devices}
    for task in problem.graph:
        allowed = problem.allowed(task)
        needed = min(problem.held_bytes(task, device) for device in allowed)
        if all(problem.held_bytes(task, device) > rooms[device] for device in allowed):
            fits = ", ".join(f"{device} {rooms[device]:.0f}" for device in problem.allowed(task))
            raise InfeasibleProblem(
                f"the weights of {task!r} take {needed:.0f} bytes, and there is room for: {fits}",
                remedy="give a device more memory, or add one",
            )
    total = sum(min(problem.held_bytes(task, device) for device in problem.allowed(task)) for task in problem.graph)
    if total > sum(rooms.values()):
        raise InfeasibleProblem(
            f"the weights take {total:.0f} bytes, all devices together have {sum(rooms.values()):.0f}",
            remedy="give a device more memory, or add one",
        )
