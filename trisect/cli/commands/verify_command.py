"""``trisect verify``: compare the outputs of the split model with those of the unsplit one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..array_files import read_feeds
from ..options import Debug, Executor, Feeds, Json, RayAddress, Seed
from ..output import note, print_json, print_table, progress_bar


def verify(
    plan: Annotated[Path, typer.Argument(help="A plan folder.")],
    model: Annotated[
        Path | None,
        typer.Option(
            "--model", metavar="FILE", help="The unsplit model; default: the file that the plan was made from."
        ),
    ] = None,
    feeds: Feeds = None,
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference", metavar="DEVICE", help="Device for the unsplit model (cpu:reference); default: cpu:ort."
        ),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option("--tolerance", min=0.0, help="Absolute tolerance, and relative to the reference value."),
    ] = None,
    seed: Seed = 0,
    executor: Executor = "threads",
    address: RayAddress = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Compare the split model with the unsplit one at every boundary. Exit 1 if they differ."""
    from trisect.runtime.plans.plan import Plan

    from ... import measured_runs

    loaded = Plan.load(plan)
    with progress_bar("verifying"):
        result = measured_runs.verify(
            loaded,
            read_feeds(feeds),
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
        columns = ["tensor", "kind", "segment", "dtype", "max. abs.", "max. rel.", "at index", "within tolerance"]
        print_table(columns, rows, names=["tensor"])
        drift = "" if result.drift_segment is None else f"; first difference in segment {result.drift_segment}"
        verdict = "equal" if result.ok else "different"
        note(f"split and unsplit model ({result.reference}) are {verdict} within {result.tolerance_text}{drift}")
        for check in result.checks:
            if check.is_output and not check.ok:
                note(f"wrong: {check.difference}")
    if not result.ok:
        raise typer.Exit(1)
