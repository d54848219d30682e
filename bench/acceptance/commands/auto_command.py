"""``trisect bench auto``: the plan of ``auto`` against the plans of all strategies, measured afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trisect.cli.option_parsing import parse_duration, parse_names
from trisect.cli.options import Check, Debug, Json
from trisect.cli.output import print_json, print_table, progress_bar
from trisect.cli.quantities import duration


def auto(
    models: Annotated[
        str, typer.Option("--models", help="Substrings of the models' names, comma-separated; default: all.")
    ] = "",
    devices: Annotated[
        str, typer.Option("--devices", help="Two or more devices, comma-separated.")
    ] = "cpu:ort,cpu:openvino",
    budget: Annotated[
        str | None, typer.Option("--budget", help="Time for running candidates; default: that of a split.")
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Number of rounds over the plans of a model.")] = 15,
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Folder of the models; default: TRISECT_MODELS, else .cache/models.")
    ] = None,
    check: Check = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Split real models with auto, then measure the plans of all strategies and each device alone in turns."""
    from ...model_packages import models_folder
    from ..auto_against_strategies import ALONE_RATIO_MIN, BEST_RATIO_MAX, compare_auto
    from ..target_check import exit_if_missed, verdict

    with progress_bar("splitting") as report:
        outcomes = compare_auto(
            models_folder(folder),
            devices=devices,
            selected=parse_names(models),
            rounds=rounds,
            budget_s=parse_duration(budget) if budget is not None else None,
            progress=report,
        )
    if json:
        import msgspec

        print_json([msgspec.to_builtins(outcome) | {"met": outcome.met} for outcome in outcomes])
    else:
        rows = [
            (
                outcome.model,
                f"{duration(outcome.split_s)}, {duration(outcome.again_s)}",
                f"{duration(outcome.auto_s)} in {outcome.segments}",
                f"{duration(outcome.best_s)} {outcome.best}",
                f"{outcome.best_ratio:.3f}",
                f"{duration(outcome.alone_s)} {outcome.alone}",
                f"{outcome.alone_ratio:.3f}",
                verdict(outcome.met),
            )
            for outcome in outcomes
        ]
        title = f"targets: auto / best of all <= {BEST_RATIO_MAX}, best alone / auto >= {ALONE_RATIO_MIN}"
        columns = ["model", "split, again", "auto", "best of all", "ratio", "best alone", "ratio", ""]
        print_table(columns, rows, title=title)
    exit_if_missed(check, all(outcome.met for outcome in outcomes))
