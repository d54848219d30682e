"""``trisect run``: run a plan and lay what was measured beside what was predicted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .output import Debug, Json, duration, note, print_json, print_table, progress_bar
from .plans import describe_timeline, read_feeds, write_arrays


def run(
    plan: Annotated[Path, typer.Argument(help="A plan folder.")],
    feeds: Annotated[
        Path | None, typer.Option("--feeds", help="Inputs in an .npz file; random ones when left out.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the outputs to this .npz file.")] = None,
    repeat: Annotated[int, typer.Option("--repeat", min=1, help="How often to run; times are medians.")] = 10,
    seed: Annotated[int, typer.Option("--seed", help="For random inputs.")] = 0,
    executor: Annotated[
        str, typer.Option("--executor", help="threads, processes, or ray: who carries the plan out.")
    ] = "threads",
    address: Annotated[
        str | None, typer.Option("--address", help="Of a Ray cluster to join: host:port, or auto. Implies ray.")
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Run a plan and show measured beside predicted times."""
    from trisect.runtime.plans.plan import Plan

    from .. import measured_runs

    loaded = Plan.load(plan)
    with progress_bar("running") as report:
        result = measured_runs.run(
            loaded,
            read_feeds(feeds) if feeds else None,
            repeat=repeat,
            seed=seed,
            executor="ray" if address is not None else executor,
            address=address,
            progress=report,
        )
    if out is not None:
        write_arrays(out, result.outputs)
    outputs = {name: {"dtype": a.dtype.name, "shape": list(a.shape)} for name, a in result.outputs.items()}
    if json:
        print_json(
            {
                "outputs": outputs,
                "trace": describe_timeline(result.trace),
                "predicted": describe_timeline(loaded.predicted),
            }
        )
        return
    measured = result.medians_s()
    predicted = {event.name: event.duration_s for event in loaded.predicted.events if event.kind == "compute"}
    rows = []
    for segment in loaded.segments:
        name = f"segment {segment.index}"
        rows.append((name, segment.device, duration(measured.get(name)), duration(predicted.get(name))))
    rows.append(("whole", "", duration(result.trace.latency_s), duration(loaded.predicted.latency_s)))
    print_table(["", "device", "measured", "predicted"], rows, title=f"{loaded.model}, median of {repeat}")
    for name, kind in outputs.items():
        note(f"output {name}: {kind['dtype']} {kind['shape']}")
