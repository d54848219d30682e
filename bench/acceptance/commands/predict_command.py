"""``trisect bench predict``: how far predictions are from measurements."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from trisect.cli.option_parsing import parse_duration
from trisect.cli.options import Check, Debug, Json
from trisect.cli.output import duration, note, print_json, print_table, progress_bar


def predict(
    models: Annotated[str, typer.Option("--models", help="Parts of the models' names, comma-separated; all.")] = "",
    devices: Annotated[str, typer.Option("--devices", help="Two or more.")] = "cpu:ort,cpu:openvino",
    splits: Annotated[int, typer.Option("--splits", min=1, help="Random splits of each model.")] = 6,
    budget: Annotated[str, typer.Option("--budget", help="For learning from made-up networks: 30s, 5m.")] = "5m",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the splits.")] = 0,
    rounds: Annotated[
        int, typer.Option("--rounds", min=1, help="How often all splits of a model take their turn.")
    ] = 5,
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Where the models are; default: TRISECT_MODELS.")
    ] = None,
    check: Check = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Predict random splits of real models, and measure them twice.

    What was learned and judged is kept: interrupted, it goes on from there.
    """
    from ..prediction_error import bench_predict

    place = folder or Path(os.environ.get("TRISECT_MODELS", ".cache/models"))
    names = [name.strip() for name in models.split(",") if name.strip()]
    with progress_bar("measuring") as report:
        result = bench_predict(
            place,
            devices=devices,
            wanted=names,
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
        columns = ["model", "split", "segments", "measured, again", "predicted unseen", "after wholes", "refined"]
        print_table(columns, rows, title="end-to-end latency")
        table = [(e.known, f"{e.median:.1%}", f"{e.p95:.1%}", _tau(e.kendall_tau)) for e in result.errors]
        table.append(
            (
                "(measured again in another process)",
                f"{result.repeatability:.1%}",
                f"{result.repeatability_p95:.1%}",
                "",
            )
        )
        print_table(
            ["measured beforehand", "median error", "95th percentile", "Kendall tau"],
            table,
            title=f"{result.splits} splits of {result.models} models",
        )
        note(
            f"a query takes {result.query_s_per_node * 1e6:.1f} us per node; learned from "
            + ", ".join(f"{count} segments on {device}" for device, count in result.learned_from.items())
        )
    if check and not result.met:
        raise typer.Exit(1)


def _tau(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
