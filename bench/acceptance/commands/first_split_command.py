"""``trisect bench first-split``: the time of a model's first split and of the next one, against another version."""

from __future__ import annotations

import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from trisect.cli.options import Check, Debug, Json
from trisect.cli.output import print_json, print_table, progress_bar
from trisect.cli.quantities import duration


def first_split(
    models: Annotated[list[Path], typer.Argument(help="ONNX models.")],
    against: Annotated[Path, typer.Option("--against", help="The `trisect` script of the other version.")],
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Repetitions; the median counts.")] = 3,
    check: Check = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Split models with empty caches and again with full ones, in turns with another installed version."""
    import statistics

    from ..first_split import FIRST_RATIO_MAX, NEXT_RATIO_MAX, compare_first_splits
    from ..target_check import exit_if_missed, verdict

    own = Path(sys.executable).with_name("trisect")
    with progress_bar("splitting") as report:
        results = compare_first_splits(models, own, against.absolute(), rounds=rounds, progress=report)
    if json:
        versions = {name: version(name) for name in ("trisect", "onnx", "onnxruntime", "openvino")}
        print_json({"versions": versions, "models": [asdict(r) | {"met": r.met} for r in results]})
    else:
        rows = [
            (
                result.model,
                duration(statistics.median(result.own.first_s)),
                f"{result.first_ratio:.2f}",
                duration(statistics.median(result.own.next_s)),
                f"{result.next_ratio:.3f}",
                verdict(result.met),
            )
            for result in results
        ]
        targets = f"first split <= {FIRST_RATIO_MAX}, next <= {NEXT_RATIO_MAX}"
        print_table(["model", "first", "ratio", "next", "ratio", ""], rows, title=f"targets: {targets}")
    exit_if_missed(check, all(result.met for result in results))
