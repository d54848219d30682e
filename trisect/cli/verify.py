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
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Compare the split model with the whole one at every boundary; exit code 1 when they differ."""
    from trisect import api
    from trisect.runtime.plan import Plan

    loaded = Plan.load(plan)
    with progress_bar("verifying"):
        result = api.verify(loaded, read_feeds(feeds) if feeds else None, model=model)
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
                "-" if check.segment < 0 else str(check.segment),
                f"{check.max_abs:.2g}",
                f"{check.max_rel:.2g}",
                "yes" if check.ok else "NO",
            )
            for check in result.checks
        ]
        print_table(["tensor", "is", "segment", "max abs", "max rel", "within tolerance"], rows)
        where = "" if result.drift_segment is None else f"; it begins in segment {result.drift_segment}"
        verdict = "equal" if result.ok else "different"
        note(f"split and whole ({result.reference}) are {verdict} within {result.tolerance:g}{where}")
    if not result.ok:
        raise typer.Exit(1)
