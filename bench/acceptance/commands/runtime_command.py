"""``trisect bench runtime``: the overhead and the speed-up of running a plan."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trisect.cli.option_parsing import parse_names
from trisect.cli.options import Check, Debug, Json
from trisect.cli.output import note, print_json, print_table

if TYPE_CHECKING:
    from ..runtime_cases.runtime_figure import RuntimeFigure


def runtime(
    models: Annotated[
        Path | None,
        typer.Option("--models", help="Folder of real models; default: TRISECT_MODELS, else .cache/models."),
    ] = None,
    only: Annotated[str, typer.Option("--only", help="Cases to measure, comma-separated; default: all.")] = "",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Also write the figures to this file.")] = None,
    check: Check = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure calls, transfers, cuts, pipelines and long streams, each against its baseline."""
    from ...model_packages import models_folder
    from ..runtime_cases.runtime_overhead import bench_runtime
    from ..target_check import exit_if_missed, verdict

    folder = models_folder(models)
    names = parse_names(only)
    result = bench_runtime(folder, names, lambda f: note(f"{f.what}: {_with_unit(f.value, f.unit)}"))
    import msgspec

    document = msgspec.to_builtins(result) | {
        "measured": [msgspec.to_builtins(figure) | {"met": figure.met} for figure in result.measured],
        "met": result.met,
    }
    if out is not None:
        from trisect.runtime.atomic_write import write_atomically

        write_atomically(out, msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")
    if json:
        print_json(document)
    else:
        rows = [(f.what, _with_unit(f.value, f.unit), _target(f), verdict(f.met)) for f in result.measured]
        print_table(["what", "measured", "target", ""], rows, title=f"medians, measured on {result.machine}")
    exit_if_missed(check, result.met)


def _with_unit(value: float, unit: str) -> str:
    return f"{value:.3g} {unit}" if unit != "x" else f"{value:.3f}x"


def _target(figure: RuntimeFigure) -> str:
    return f"{'<=' if figure.at_most else '>='} {figure.promised:.3g} {figure.unit}".replace(" x", "x")
