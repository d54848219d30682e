"""``trisect bench predict``: the error of predictions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from trisect.cli.option_parsing import parse_duration, parse_names
from trisect.cli.options import Check, Debug, Json
from trisect.cli.output import note, print_json, print_table, progress_bar
from trisect.cli.quantities import duration, interval_text, size


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
    fresh: Annotated[
        bool,
        typer.Option("--fresh", help="Split by several strategies as a new user does, with nothing measured before."),
    ] = False,
    write_models: Annotated[
        Path | None,
        typer.Option("--write-models", metavar="FOLDER", help="Only write the cost models fitted here, to ship them."),
    ] = None,
    check: Check = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Predict the latency of random splits of real models, and measure each twice.

    Measurements are cached: an interrupted run resumes where it stopped. With --fresh nothing is cached, and budget,
    splits, seed and rounds do not apply.
    """
    from ...model_packages import models_folder
    from ..prediction.prediction_error import bench_predict
    from ..target_check import exit_if_missed

    if write_models is not None:
        _write_models(write_models, devices)
        return
    model_folder = models_folder(folder)
    names = parse_names(models)
    if fresh:
        exit_if_missed(check, _predict_fresh(model_folder, names, devices, json))
        return
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


def _write_models(folder: Path, devices: str) -> None:
    from trisect.runtime import engines

    from ..prediction.model_files import write_models

    for path in write_models(folder, engines.find_devices(devices)):
        note(f"{path} written, {size(path.stat().st_size)}")


def _predict_fresh(folder: Path, names: Sequence[str], devices: str, json: bool) -> bool:
    """Measure and show the predictions of a new user's splits; return whether the targets are met."""
    from ..prediction.fresh_predictions import bench_fresh
    from ..prediction.prediction_error import measured_s

    with progress_bar("measuring") as report:
        result = bench_fresh(folder, names=names, devices=devices, progress=report)
    if json:
        import msgspec

        print_json(msgspec.to_builtins(result) | {"met": result.met})
        return result.met
    for what, reason in result.left_out.items():
        note(f"{what} left out: {reason}")
    rows = [
        (
            model.model,
            run.strategy,
            f"{run.segments}",
            duration(measured_s(run)),
            duration(run.predicted_s),
            interval_text(run.interval_s, run.predicted_s),
            "" if run.is_inside else "outside",
        )
        for model in result.models
        for run in model.runs
    ]
    columns = ["model", "placement", "segments", "measured", "predicted", "90 % interval", ""]
    print_table(columns, rows, title="end-to-end latency, nothing measured before")
    table = [
        ("predictions of a first split", f"{result.median_abs_error:.1%}", f"{result.p95_abs_error:.1%}",
         _tau(result.kendall_tau), f"{result.coverage:.0%}"),
        ("(repeatability in another process)", f"{result.repeatability:.1%}", f"{result.repeatability_p95:.1%}",
         "", ""),
    ]  # fmt: skip
    print_table(
        ["", "median error", "95th percentile", "Kendall tau", "inside of the 90 % interval"],
        table,
        title=f"{result.plans} plans of {len(result.models)} models",
    )
    return result.met


def _tau(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
