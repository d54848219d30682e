"""``trisect verify``: does the split model give the whole model's answers?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .output import Debug, Json, note, print_json, print_table, progress_bar
from .plans import read_feeds


def verify(
    plan: Annotated[Path, typer.Argument(help="A plan folder.")],
    model: Annotated[
        Path | None, typer.Option("--model", help="The whole model; where it was split from when left out.")
    ] = None,
    feeds: Annotated[
        Path | None, typer.Option("--feeds", help="Inputs in an .npz file; random ones when left out.")
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option("--reference", help="Device for the whole model, such as cpu:reference; cpu:ort when left out."),
    ] = None,
    tolerance: Annotated[
        float | None, typer.Option("--tolerance", min=0.0, help="Allowed: this, plus this share of the right value.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="For random inputs.")] = 0,
    executor: Annotated[
        str, typer.Option("--executor", help="threads, processes, or ray: who carries the split model out.")
    ] = "threads",
    address: Annotated[
        str | None, typer.Option("--address", help="Of a Ray cluster to join: host:port, or auto. Implies ray.")
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Compare the split model with the whole one at every boundary; exit code 1 when they differ."""
    from trisect.runtime.plans.plan import Plan

    from .. import measured_runs

    loaded = Plan.load(plan)
    with progress_bar("verifying"):
        result = measured_runs.verify(
            loaded,
            read_feeds(feeds) if feeds else None,
            model=model,
            reference=reference,
            tolerance=tolerance,
            seed=seed,
            executor="ray" if address is not None else executor,
            address=address,
        )
    if json:
        print_json(
            {
                "ok": result.ok,
                "max_abs": result.max_abs,
                "max_rel": result.max_rel,
                "tolerance": result.tolerance,
                "reference": result.reference,
                "drift_segment": result.drift_segment,
                "checks": [vars(check) | {"ok": check.ok} for check in result.checks],
            }
        )
    else:
        rows = [
            (
                check.name,
                "output" if check.is_output else "boundary",
                "-" if check.segment < 0 else f"{check.segment} {check.device}",
                check.dtype,
                f"{check.max_abs:.2g}",
                f"{check.max_rel:.2g}",
                ",".join(map(str, check.where)),
                "yes" if check.ok else "NO",
            )
            for check in result.checks
        ]
        columns = ["tensor", "is", "segment", "dtype", "max abs", "max rel", "worst at", "within tolerance"]
        print_table(columns, rows)
        where = "" if result.drift_segment is None else f"; it begins in segment {result.drift_segment}"
        verdict = "equal" if result.ok else "different"
        note(f"split and whole ({result.reference}) are {verdict} within {result.tolerance:g}{where}")
    if not result.ok:
        raise typer.Exit(1)
