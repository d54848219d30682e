"""``python -m trisect.bench.acceptance values``: whether a split ever gives a wrong answer silently."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trisect.cli.option_parsing import parse_names
from trisect.cli.options import Check, Debug, Json
from trisect.cli.output import note, print_json, print_table, progress_bar


def values(
    every: Annotated[int, typer.Option("--every", min=1, help="Run only every Nth case of each kind.")] = 1,
    strategies: Annotated[
        str, typer.Option("--strategies", metavar="A,B", help="Strategies.")
    ] = "auto,roundrobin,single:cpu:ort,single:cpu:openvino",
    write_table: Annotated[
        Path | None,
        typer.Option(
            "--write-table",
            metavar="FILE",
            help="Measure the table of value trials instead, and write it to this file.",
        ),
    ] = None,
    models: Annotated[
        Path | None, typer.Option("--models", metavar="FOLDER", help="Real models whose operators the table covers.")
    ] = None,
    check: Check = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Run onnx.backend.test as split places it, on the cases' own inputs; or measure the table of value trials."""
    from ..target_check import exit_if_missed, verdict

    if write_table is not None:
        _write_table(write_table, models)
        return
    from ..placed_cases import bench_placed_cases

    with progress_bar("running") as report:
        result = bench_placed_cases(every, tuple(parse_names(strategies)), report)
    document = result.document()
    if json:
        print_json(document)
    else:
        kinds = ("right", "refused", "random", "wrong")
        rows = [(s, *(str(counts.get(kind, 0)) for kind in kinds)) for s, counts in document["counts"].items()]
        print_table(["strategy", *kinds], rows, title="cases of onnx.backend.test")
        for outcome in document["wrong"]:
            note(f"WRONG: {outcome.name}, {outcome.strategy}: {outcome.reason[:120]}")
        note(f"target {document['promised']}: {verdict(result.met)}")
    exit_if_missed(check, result.met)


def _write_table(path: Path, models: Path | None) -> None:
    import msgspec

    from trisect.bench.model_packages import known_files
    from trisect.runtime.atomic_write import write_atomically

    from ..value_table import measure_table

    known = known_files()
    available = (
        [(model, known[model.name].shapes) for model in sorted(models.glob("*.onnx"))] if models is not None else []
    )
    with progress_bar("measuring") as report:
        table = measure_table(path.with_suffix(".partial"), available, report)
    write_atomically(path, msgspec.json.format(msgspec.json.encode(table), indent=1) + b"\n")
    path.with_suffix(".partial").unlink()
