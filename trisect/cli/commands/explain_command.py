"""``trisect explain``: why each node is placed where it is, and how far the plan is from the best possible one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..options import Debug, Json
from ..output import note, print_json, print_table
from ..plan_tables import INTERVAL, certificate, comparison_lines, predicted_segments_s
from ..quantities import duration, interval_text, plural

if TYPE_CHECKING:
    from trisect.runtime.plans.plan import Plan
    from trisect.runtime.plans.plan_parts import PlacedTask


def explain(
    plan: Annotated[Path, typer.Argument(help="A plan folder.")],
    node: Annotated[str | None, typer.Argument(help="Name of a node; default: all nodes.")] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Explain the placement of each node, and the plan's distance from a proven lower bound."""
    from trisect.runtime.plans.plan import Plan

    loaded = Plan.load(plan)
    task = loaded.task_of(node) if node is not None else None
    if json:
        names = [node] if node is not None else list(loaded.placement)
        print_json(
            {
                "objective": loaded.objective,
                "value": loaded.value,
                "interval": loaded.interval,
                "bound": loaded.bound,
                "bound_by": loaded.bound_by,
                "gap": loaded.gap,
                "nodes": _node_documents(loaded, names),
            }
        )
        return
    if node is not None:
        _show_node(loaded, node, task)
    else:
        _show_all(loaded)
    for line in (certificate(loaded), *comparison_lines(loaded)):
        note(line)


def _node_documents(plan: Plan, names: list[str]) -> dict[str, Any]:
    tasks = {name: task for task in plan.tasks for name in task.nodes}
    segments = {name: segment.index for segment in plan.segments for name in segment.nodes}
    documents: dict[str, Any] = {}
    for name in names:
        task = tasks.get(name)
        documents[name] = {
            "device": plan.placement[name],
            "segment": segments.get(name),
            "op_type": task.op_type if task is not None else None,
            "op_class": task.op_class if task is not None else None,
            "reason": task.reason if task is not None else plan.explain(name),
            "options": task.options if task is not None else [],
        }
    return documents


def _show_node(plan: Plan, node: str, task: PlacedTask | None) -> None:
    print_table(["node", "device", "reason"], [(node, plan.placement[node], plan.explain(node))], names=["node"])
    if task is None:
        return
    rows = [
        (
            ("* " if option.device == task.device else "  ") + option.device,
            duration(option.time_s),
            duration(option.copy_s) if option.time_s is not None else "-",
            duration(option.call_s) if option.time_s is not None else "-",
            option.why_not,
        )
        for option in task.options
    ]
    title = f"{task.op_type}, {task.op_class}: predicted costs on each device"
    columns = ["device", "time", "copies", "call overhead", "not possible because"]
    print_table(columns, rows, title=title, optional=columns[4:])
    if len(task.nodes) > 1:
        note(f"placed together: {', '.join(task.nodes)}")


def _show_all(plan: Plan) -> None:
    tasks = {name: task for task in plan.tasks for name in task.nodes}
    times = predicted_segments_s(plan)
    intervals_s = plan.predicted.segment_intervals_s or {}
    segments = []
    for segment in plan.segments:
        name = f"segment {segment.index}"
        time_s, interval_s = times.get(name), intervals_s.get(name)
        classes = Counter(tasks[node].op_class for node in segment.nodes if node in tasks)
        op_classes = ", ".join(f"{count} {op_class}" for op_class, count in classes.most_common(3))
        figures = duration(time_s), interval_text(interval_s, time_s)
        segments.append((str(segment.index), segment.device, str(len(segment.nodes)), *figures, op_classes))
    columns = ["segment", "device", "nodes", "predicted", INTERVAL, "op classes"]
    print_table(columns, segments, title=f"{plan.model} ({plan.strategy})", optional=[INTERVAL])
    ids = [device.id for device in plan.devices]
    counts = Counter((task.op_class, task.device) for task in plan.tasks)
    by_class = [
        (name, *(str(counts[name, device]) for device in ids))
        for name in sorted({task.op_class for task in plan.tasks})
    ]
    if by_class:
        print_table(["op class", *ids], by_class)
    by_task = [(task.nodes[0], str(len(task.nodes)), task.device, task.reason) for task in plan.tasks]
    by_hand = [(node, "1", device, plan.explain(node)) for node, device in plan.placement.items() if not plan.tasks]
    print_table(["node", "nodes", "device", "reason"], by_task or by_hand, names=["node"])
    if plan.tasks and len(tasks) < len(plan.placement):
        constants = plural(len(plan.placement) - len(tasks), "node")
        note(f"constant at these shapes, and in each segment that needs them: {constants}")
    for text in plan.notes:
        note(f"note: {text}")
