"""``trisect bench runtime``: what running a plan costs beyond its engines, and what it gains."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trisect.cli.options import Check, Debug, Json
from trisect.cli.output import note, print_json, print_table

if TYPE_CHECKING:
    from ..runtime_overhead import Measured


def runtime(
    models: Annotated[
        Path | None,
        typer.Option("--models", help="Folder of real models; default: TRISECT_MODELS, else .cache/models."),
    ] = None,
    only: Annotated[str, typer.Option("--only", help="Cases to measure, comma-separated.")] = "",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the figures to this file too.")] = None,
    check: Check = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure calls, hand-overs, cuts, pipelines and long streams, each beside what it is compared with."""
    from ..runtime_overhead import bench_runtime

    folder = models or Path(os.environ.get("TRISECT_MODELS", ".cache/models"))
    names = [name.strip() for name in only.split(",") if name.strip()]
    result = bench_runtime(folder, names, lambda found: note(f"{found.what}: {_figure(found.value, found.unit)}"))
    import msgspec

    document = msgspec.to_builtins(result) | {
        "measured": [msgspec.to_builtins(found) | {"met": found.met} for found in result.measured],
        "met": result.met,
    }
    if out is not None:
        from trisect.profiles.stored.profile_store import write_aside

        write_aside(out, msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")
    if json:
        print_json(document)
    else:
        rows = [(f.what, _figure(f.value, f.unit), _promise(f), "kept" if f.met else "MISSED") for f in result.measured]
        print_table(["what", "measured", "promised", ""], rows, title=f"medians, measured on {result.machine}")
    if check and not result.met:
        raise typer.Exit(1)


def _figure(value: float, unit: str) -> str:
    return f"{value:.3g} {unit}" if unit != "x" else f"{value:.3f}x"


def _promise(found: Measured) -> str:
    return f"{'<=' if found.at_most else '>='} {found.promised:.3g} {found.unit}".replace(" x", "x")
