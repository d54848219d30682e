"""``trisect bench predict``: the error of predictions."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from trisect.cli.option_parsing import parse_duration, parse_names
from trisect.cli.options import Check, Debug, Json
from trisect.cli.output import note, print_json, print_table, progress_bar
from trisect.cli.quantities import duration


def predict(
    models: Annotated[
        str, typer.Option("--models", help="Substrings of the models' names, comma-separated; default: all.")
    ] = "",
    devices: Annotated[
        str, typer.Option("--devices", help="Two or more devices, comma-separated.")
    ] = "cpu:ort,cpu:openvino",
    splits: Annotated[int, typer.Option("--splits", min=1, help="Random splits of each model.")] = 6,
    budget: Annotated[str, typer.Option("--budget", help="Time for measuring synthetic networks: 30s, 5m.")] = "5m",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Random seed of the splits.")] = 0,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Number of rounds over all splits of a model.")] = 5,
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Folder of the models; default: TRISECT_MODELS, else .cache/models.")
    ] = None,
    check: Check = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Predict the latency of random splits of real models, and measure each twice.

    Measurements are cached: an interrupted run resumes where it stopped.
    """
    from ..prediction.prediction_error import bench_predict
    from ..target_check import exit_if_missed

    model_folder = folder or Path(os.environ.get("TRISECT_MODELS", ".cache/models"))
    names = parse_names(models)
    with progress_bar("measuring") as report:
        result = bench_predict(
            model_folder,
            devices=devices,
            names=names,
            splits=splits,
            budget_s=parse_duration(budget),
            seed=seed,
            rounds=rounds,
            progress=report,
        )
    if json:
        import msgspec

        print_json(msgspec.to_builtins(result) | {"met": result.met})
    else:
        for model, reason in result.left_out.items():
            note(f"{model} left out: {reason}")
        rows = [
            (
                one.model,
                run.split if not run.is_cut else f"cut {run.split}",
                f"{run.segments}",
                f"{duration(run.measured_s)}, {duration(run.again_s)}",
                f"{duration(run.unseen_s)} ±{run.deviation:.0%}",
                duration(run.whole_s),
                duration(run.refined_s),
            )
            for one in result.per_model
            for run in one.runs
        ]
        columns = [
            "model",
            "split",
            "segments",
            "measured, repeated",
            "unseen model",
            "whole model profiled",
            "other splits known",
        ]
        print_table(columns, rows, title="end-to-end latency")
        table = [(e.known, f"{e.median:.1%}", f"{e.p95:.1%}", _tau(e.kendall_tau)) for e in result.errors]
        table.append(
            (
                "(repeatability in another process)",
                f"{result.repeatability:.1%}",
                f"{result.repeatability_p95:.1%}",
                "",
            )
        )
        print_table(
            ["known beforehand", "median error", "95th percentile", "Kendall tau"],
            table,
            title=f"{result.splits} splits of {result.models} models",
        )
        note(
            f"a prediction takes {result.query_s_per_node * 1e6:.1f} us per node; fitted on "
            + ", ".join(f"{count} segments on {device}" for device, count in result.learned_from.items())
        )
    exit_if_missed(check, result.met)


def _tau(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
