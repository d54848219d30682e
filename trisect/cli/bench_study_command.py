"""``trisect bench study``: strategies compared on workloads of simulated problems, kept in a folder."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trisect.runtime.errors import EngineMissing, InvalidInput

from .output import Debug, Json, note, print_json, print_table, progress_bar

_MOST_REASONS = 10

if TYPE_CHECKING:
    from trisect.bench.study.study_result import Study
    from trisect.bench.study.study_spec import Spec


def study(
    spec: Annotated[
        Path | None, typer.Argument(help="A study's specification (.toml, .json), or its folder to go on with.")
    ] = None,
    strategies: Annotated[
        str, typer.Option("--strategies", help="Names, comma-separated; all for every one there is.")
    ] = "",
    workloads: Annotated[
        list[str] | None, typer.Option("--workloads", help='Such as "stg random:layered?n=20,100"; may be repeated.')
    ] = None,
    seeds: Annotated[str, typer.Option("--seeds", help="Such as 0-9 or 0,3,7.")] = "0",
    objective: Annotated[
        str | None, typer.Option("--objective", help="What to make small; what is usual for each workload.")
    ] = None,
    time_limit: Annotated[float, typer.Option("--time-limit", help="Seconds for strategies that search.")] = 10.0,
    stop_after: Annotated[
        float,
        typer.Option(
            "--stop-after", min=0.0, help="Seconds after which a run is stopped; 0: twice the limit, 10 more."
        ),
    ] = 0.0,
    load: Annotated[
        list[str] | None, typer.Option("--load", help="A Python file of yours that registers strategies; it is run.")
    ] = None,
    processes: Annotated[int | None, typer.Option("--processes", min=1, help="Runs side by side.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder that keeps all; it can be gone on with.")] = None,
    latex: Annotated[bool, typer.Option("--latex", help="Print the summary as a LaTeX table.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the summary as Markdown.")] = False,
    list_workloads: Annotated[bool, typer.Option("--list", help="Say what workloads there are, and whose.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Compare placement strategies on many problems, by simulation."""
    if list_workloads:
        _list(json)
        return
    if spec is not None and (strategies or workloads):
        raise InvalidInput("a specification and --strategies or --workloads", remedy="give one of both")
    if spec is not None and spec.is_dir():
        out = out or spec
    wanted = (
        _read(spec)
        if spec is not None
        else _made(strategies, workloads, seeds, objective, time_limit, stop_after, load)
    )
    from trisect.bench.study.study_runs import run_spec

    with progress_bar("running") as report:
        found = run_spec(wanted, processes=processes, out=out, progress=report)
    if out is not None:
        _write(found, out)
    if json:
        about = {"spec": found.spec, "rows": found.rows, "summary": found.summary(), "environment": found.environment}
        print_json(about)
    elif latex or markdown:
        typer.echo(found.to_latex() if latex else found.to_markdown(), nl=False)
    else:
        _print(found)


def _read(path: Path) -> Spec:
    from trisect.bench.study.study_folder import SPEC
    from trisect.bench.study.study_spec import read_spec
    from trisect.bench.study.user_module import load

    found = read_spec(path / SPEC if path.is_dir() else path)
    for file in found.load:
        load(file)
    return found


def _made(
    strategies: str,
    workloads: list[str] | None,
    seeds: str,
    objective: str | None,
    time_limit: float,
    stop_after: float,
    files: list[str] | None,
) -> Spec:
    from trisect.bench.study.study_spec import make_spec
    from trisect.bench.study.user_module import load
    from trisect.partitioner.strategies import names

    for file in files or ():
        load(file)
    return make_spec(
        names() if strategies == "all" else [name.strip() for name in strategies.split(",") if name.strip()],
        [word for text in workloads or () for word in text.split()],
        _numbers(seeds),
        objective,  # type: ignore[arg-type]  # checked where it is used
        time_limit,
        stop_after,
        [str(Path(file).resolve()) for file in files or ()],
    )


def _numbers(text: str) -> list[int]:
    """Seeds out of a text.

    Examples
    --------
    >>> _numbers("0-3,7")
    [0, 1, 2, 3, 7]
    """
    found: list[int] = []
    try:
        for part in text.split(","):
            first, _, last = part.partition("-")
            found += range(int(first), int(last or first) + 1)
    except ValueError:
        found = []
    if not found or len(found) > 1_000_000:
        raise InvalidInput(f"--seeds is {text!r}", remedy="give seeds such as 0-9 or 0,3,7")
    return found


def _write(found: Study, folder: Path) -> None:
    from trisect.profiles.stored.profile_store import write_aside

    found.to_csv(folder / "rows.csv")
    with contextlib.suppress(EngineMissing):
        found.to_parquet(folder / "rows.parquet")
    write_aside(folder / "summary.md", found.to_markdown().encode())
    write_aside(folder / "summary.tex", found.to_latex().encode())
    note(f"kept in {folder}: rows.csv, rows.sqlite, summary.md, summary.tex, study.toml")


def _print(found: Study) -> None:
    from trisect.bench.study import summary_tables as tables

    summary = found.summary()
    print_table(tables.columns(), tables.cells(summary))
    for line in tables.notes(summary):
        note(line)
    failed: dict[tuple[str, str], int] = {}
    for row in found.rows:
        if row.status != "ok":
            key = (row.strategy if row.status == "failed" else f"{row.workload} {row.instance}", row.reason)
            failed[key] = failed.get(key, 0) + 1
    for (what, reason), count in list(failed.items())[:_MOST_REASONS]:
        note(f"{what} failed: {reason}" + (f" ({count} runs)" if count > 1 else ""))
    if len(failed) > _MOST_REASONS:
        note(f"and {len(failed) - _MOST_REASONS} other reasons: see the rows")


def _list(json: bool) -> None:
    from trisect.bench.workloads import all_workloads, settings_of

    found = all_workloads()
    if json:
        about = [
            {"workload": w.name, "provenance": w.provenance, "licence": w.licence, "settings": settings_of(w)}
            for w in found
        ]
        print_json({"workloads": about})
        return
    rows = [
        (w.name, w.provenance, w.licence, " ".join(f"{key}={value}" for key, value in settings_of(w).items()))
        for w in found
    ]
    print_table(["workload", "what it is, and whose", "licence", "settings"], rows)
