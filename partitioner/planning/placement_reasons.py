"""Explains a placement: the costs of each task on its device and on the others, and the reason in one line."""

from __future__ import annotations

from math import inf

import networkx as nx

from trisect.runtime.plans.plan_parts import DeviceOption, PlacedTask
from trisect.scheduler.problem.problem import Placement, Problem, crossing_time_s


def placed_tasks(problem: Problem, placement: Placement) -> tuple[PlacedTask, ...]:
    """Return every task with its reason and its options, in the graph's order.

    The reason compares the cost of a task on its device with that on the next best one, its neighbours unmoved.

    Examples
    --------
    >>> import networkx as nx
    >>> from trisect.profiles.costmodel.link_cost import LinkCost
    >>> from trisect.runtime.device import Device
    >>> from trisect.scheduler.problem.platform import Platform
    >>> graph = nx.DiGraph([("a", "b")])
    >>> graph.edges["a", "b"]["tensors"] = {"t": 8}
    >>> devices = [Device("cpu:x", "cpu", "x", ""), Device("gpu:y", "gpu", "y", "")]
    >>> times = {"a": {"cpu:x": 0.001, "gpu:y": 0.002}, "b": {"cpu:x": 0.0012, "gpu:y": 0.0008}}
    >>> problem = Problem.of(graph, devices, times, Platform(default_link=LinkCost(0.0001)))
    >>> placed_tasks(problem, {"a": "cpu:x", "b": "gpu:y"})[1].reason
    'gpu:y 0.8 ms + 0.1 ms copy < cpu:x 1.2 ms'
    """
    tasks = []
    for task, data in problem.graph.nodes(data=True):
        options = _options(problem, placement, task)
        features = data.get("features")
        tasks.append(
            PlacedTask(
                nodes=data.get("nodes", (task,)),
                device=placement[task],
                op_type=features.op_type if features is not None else "",
                op_class=features.op_class.value if features is not None else "",
                reason=_reason(problem, placement, task, options),
                options=options,
            )
        )
    return tuple(tasks)


def _options(problem: Problem, placement: Placement, task: str) -> tuple[DeviceOption, ...]:
    """Return what a task would cost on each device."""
    neighbour_devices = {placement[other] for other in nx.all_neighbors(problem.graph, task)}
    options = []
    for device in problem.device_ids:
        time_s = problem.time(task, device)
        if time_s == inf:
            options.append(DeviceOption(device, None, why_not=problem.why_not.get((task, device), "cannot run it")))
            continue
        copy_s = crossing_time_s(problem, placement, {task}, device)
        needs_call = bool(neighbour_devices) and device not in neighbour_devices
        options.append(DeviceOption(device, time_s, copy_s, problem.overhead(device) if needs_call else 0.0))
    return tuple(options)


def _reason(problem: Problem, placement: Placement, task: str, options: tuple[DeviceOption, ...]) -> str:
    here = placement[task]
    chosen = next(option for option in options if option.device == here)
    if len(options) == 1:
        return f"{here} {_cost(problem, chosen, 'time')}: the only device"
    others = [option for option in options if option.time_s is not None and option is not chosen]
    if not others:
        why = "; ".join(f"{option.device}: {option.why_not}" for option in options if option is not chosen)
        return f"{here} {_cost(problem, chosen, 'time')}: the only device that can or may run it ({why})"
    next_best = min(others, key=lambda option: _total(problem, option))
    texts = [
        f"{option.device} {_cost(problem, option, 'time')}"
        + (f" + {_cost(problem, option, 'copy')} copy" if option.copy_s > 0 else "")
        + (f" + {_cost(problem, option, 'call')} call" if option.call_s > 0 else "")
        for option in (chosen, next_best)
    ]
    if _total(problem, chosen) < _total(problem, next_best):
        return f"{texts[0]} < {texts[1]}"
    if _total(problem, chosen) == _total(problem, next_best):
        return f"{texts[0]} = {texts[1]}"
    return f"{texts[0]} > {texts[1]}, but the strategy keeps it with the rest"


def _total(problem: Problem, option: DeviceOption) -> float:
    assert option.time_s is not None
    total_s = option.time_s + option.copy_s + option.call_s
    return total_s * problem.platform.power_w[option.device] if problem.objective == "energy" else total_s


def _cost(problem: Problem, option: DeviceOption, what: str) -> str:
    """Return a time in ms, or the energy for it in mJ."""
    assert option.time_s is not None
    seconds = {"time": option.time_s, "copy": option.copy_s, "call": option.call_s}[what]
    if problem.objective == "energy":
        return f"{seconds * problem.platform.power_w[option.device] * 1e3:.3g} mJ"
    return f"{seconds * 1e3:.3g} ms"
