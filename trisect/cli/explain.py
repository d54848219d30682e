"""``trisect explain``: why each node is where it is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .output import Debug, Json, duration, note, print_json, print_table


def explain(
    plan: Annotated[Path, typer.Argument(help="A plan folder.")],
    node: Annotated[str | None, typer.Argument(help="Name of one node; all when left out.")] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Say why each node of a plan is placed where it is, and how good the plan can be at most."""
    from trisect.runtime.plan import Plan

    loaded = Plan.load(plan)
    names = [node] if node is not None else list(loaded.placement)
    reasons = {name: loaded.explain(name) for name in names}
    if json:
        nodes = {name: {"device": loaded.placement[name], "reason": reasons[name]} for name in names}
        print_json({"nodes": nodes, "value": loaded.value, "bound": loaded.bound, "gap": loaded.gap})
        return
    print_table(["node", "device", "why"], [(name, loaded.placement[name], reasons[name]) for name in names])
    note(f"predicted {loaded.objective} {duration(loaded.value)}, bound {duration(loaded.bound)}")
