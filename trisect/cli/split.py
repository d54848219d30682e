"""``trisect split``: place a model's nodes on devices and cut it into segments that run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from .output import Debug, Json, duration, note, print_json, print_table, progress_bar, size
from .plans import describe, parse_shapes


def split(
    model: Annotated[Path, typer.Argument(help="An ONNX model.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write the plan to.")],
    devices: Annotated[
        str, typer.Option("--devices", help="Ids or kinds, comma-separated, or auto for all hardware.")
    ] = "auto",
    strategy: Annotated[
        str, typer.Option("--strategy", help="How to place: auto, opclass, single:cpu:ort, ...")
    ] = "auto",
    objective: Annotated[
        Literal["latency", "throughput"], typer.Option("--objective", help="What to make good.")
    ] = "latency",
    shape: Annotated[
        list[str] | None, typer.Option("--shape", help="Value of a symbolic dimension, name=number; repeatable.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="For strategies that draw lots.")] = 0,
    machine: Annotated[
        str | None,
        typer.Option("--machine", help="Plan for a published machine that is not at hand: nvidia-h200, ..."),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Split a model over devices: writes a plan folder that `run` and `verify` take."""
    from trisect import api

    with progress_bar("splitting") as report:
        plan = api.split(
            model, devices, strategy, objective, parse_shapes(shape or []),
            seed=seed, out=out, machine=machine, progress=report,
        )  # fmt: skip
    if json:
        print_json(describe(plan))
        return
    rows = [
        (
            str(s.index),
            s.device,
            str(len(s.nodes)),
            ", ".join(t.name for t in s.inputs),
            ", ".join(t.name for t in s.outputs),
        )
        for s in plan.segments
    ]
    print_table(["segment", "device", "nodes", "takes", "gives"], rows, title=f"{plan.model} ({plan.strategy})")
    moved = [t.size_bytes for t in plan.transfers if t.source >= 0 and t.target >= 0]
    note(f"plan written to {out}: {len(plan.segments)} segments, {len(moved)} transfers, {size(sum(moved))}")
    if machine is not None:
        note(f"from published figures of {machine}: nothing was measured")
    note(f"predicted {plan.objective} {duration(plan.value)}; no split can be below {duration(plan.bound)}")
