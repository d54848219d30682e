"""``trisect run``: run a plan, and compare measured with predicted times."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ..array_files import read_feeds, write_arrays
from ..options import Debug, Executor, Feeds, Json, RayAddress, Seed
from ..output import note, print_json, print_table, progress_bar
from ..plan_documents import timeline_document
from ..plan_tables import outside_interval, run_table
from ..quantities import plural

_NAME_SHOWN = 60


def run(
    plan: Annotated[Path, typer.Argument(help="A plan folder.")],
    feeds: Feeds = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write the outputs to this .npz file.")
    ] = None,
    repeat: Annotated[int, typer.Option("--repeat", min=1, help="Number of runs; times are medians over them.")] = 10,
    seed: Seed = 0,
    guard_every: Annotated[
        int | None,
        typer.Option("--guard-every", min=1, help="Compare every so many runs with the unsplit model; stop if wrong."),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option("--model", metavar="FILE", help="That model; default: the file that the plan was made from."),
    ] = None,
    executor: Executor = "threads",
    address: RayAddress = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Run a plan and print measured and predicted times."""
    from trisect.runtime.checks.stream_guard import GuardOptions
    from trisect.runtime.files.output_paths import check_output_file
    from trisect.runtime.plans.plan import Plan
    from trisect.runtime.plans.plan_origins import files_of_model

    from ... import measured_runs

    if out is not None:
        check_output_file(out, [plan, feeds, model])
    loaded = Plan.load(plan)
    if out is not None:
        check_output_file(out, files_of_model(loaded, model))
    with progress_bar("running") as report:
        result = measured_runs.run(
            loaded,
            read_feeds(feeds),
            repeat=repeat,
            seed=seed,
            executor="ray" if address is not None else executor,
            address=address,
            guard_every=GuardOptions(guard_every, model) if guard_every is not None else None,
            progress=report,
        )
    if out is not None:
        for name, member in write_arrays(out, result.outputs).items():
            note(f"note: output {name[:_NAME_SHOWN]!r} is called {member!r} in {out}: a zip cannot contain its name")
    outputs = {name: {"dtype": a.dtype.name, "shape": list(a.shape)} for name, a in result.outputs.items()}
    if json:
        print_json(
            {
                "outputs": outputs,
                "measured": {**asdict(result.measured), "outside_interval": outside_interval(loaded, result.measured)},
                "trace": timeline_document(result.trace),
                "predicted": timeline_document(loaded.predicted),
            }
        )
        return
    columns, rows = run_table(loaded, result.measured)
    title = f"{loaded.model}, median of {plural(repeat, 'run')}"
    print_table(columns, rows, title=title, optional=columns[4:])
    for name, about in outputs.items():
        note(f"output {name}: {about['dtype']} {about['shape']}")
