"""``trisect bench study``: compare strategies on workloads of simulated problems."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trisect.runtime.errors import EngineMissing, InvalidInput

from ..option_parsing import parse_names
from ..options import Debug, Json
from ..output import note, print_json, print_table, print_text, progress_bar

_REASONS_MAX = 10

if TYPE_CHECKING:
    from trisect.bench.study.study_result import Study
    from trisect.bench.study.study_spec import StudySpec


def study(
    spec: Annotated[
        Path | None, typer.Argument(help="A study specification (.toml, .json), or a study folder to resume.")
    ] = None,
    strategies: Annotated[
        str, typer.Option("--strategies", metavar="LIST", help="Placement strategies, comma-separated, or all.")
    ] = "",
    workloads: Annotated[
        list[str] | None,
        typer.Option("--workloads", metavar="NAMES", help='For example "stg random:layered?n=20,100"; repeatable.'),
    ] = None,
    seeds: Annotated[str, typer.Option("--seeds", metavar="LIST", help="Random seeds: 0-9 or 0,3,7.")] = "0",
    objective: Annotated[
        str | None,
        typer.Option("--objective", metavar="NAME", help="Objective to minimise; default: that of each workload."),
    ] = None,
    time_limit: Annotated[float, typer.Option("--time-limit", help="Time limit of a search, in seconds.")] = 10.0,
    stop_after: Annotated[
        float,
        typer.Option(
            "--stop-after", min=0.0, help="Stop a run after this many seconds; 0: twice the time limit plus 10."
        ),
    ] = 0.0,
    load: Annotated[
        list[str] | None,
        typer.Option(
            "--load",
            metavar="FILE",
            help="Python file that registers strategies; it is executed. One that SPEC names needs it too. Repeatable.",
        ),
    ] = None,
    processes: Annotated[int | None, typer.Option("--processes", min=1, help="Number of runs in parallel.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FOLDER", help="Write results here; pass it again to resume.")
    ] = None,
    latex: Annotated[bool, typer.Option("--latex", help="Print the summary as a LaTeX table.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the summary as Markdown.")] = False,
    list_workloads: Annotated[
        bool, typer.Option("--list", help="List the workloads, with source and licence.")
    ] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Compare placement strategies on many placement problems, by simulation."""
    if list_workloads:
        _list(json)
        return
    if spec is not None and (strategies or workloads):
        raise InvalidInput(
            "expected either a specification or --strategies and --workloads, got both", remedy="remove one of them"
        )
    if spec is not None and spec.is_dir():
        out = out or spec
    wanted = (
        _read(spec, load or ())
        if spec is not None
        else _make(strategies, workloads, seeds, objective, time_limit, stop_after, load)
    )
    from trisect.bench.study.study_runs import run_spec

    with progress_bar("running") as report:
        result = run_spec(wanted, processes=processes, out=out, progress=report)
    if out is not None:
        _write(result, out)
    if json:
        about = {
            "spec": result.spec,
            "rows": result.rows,
            "summary": result.summary(),
            "environment": result.environment,
        }
        print_json(about)
    elif latex or markdown:
        print_text(result.to_latex() if latex else result.to_markdown())
    else:
        _print(result)


def _read(path: Path, allowed: Sequence[str]) -> StudySpec:
    from trisect.bench.study.study_folder import SPEC
    from trisect.bench.study.study_spec import read_spec
    from trisect.bench.study.user_module import load

    parsed = read_spec(path / SPEC if path.is_dir() else path)
    permitted = [Path(file).resolve() for file in allowed]
    for file in parsed.load:
        if Path(file).resolve() not in permitted:
            raise InvalidInput(
                f"{path} names the Python file {file}, which would be executed", remedy=f"to allow it: --load {file}"
            )
    for code in permitted:
        load(code)
    return parsed


def _make(
    strategies: str,
    workloads: list[str] | None,
    seeds: str,
    objective: str | None,
    time_limit: float,
    stop_after: float,
    files: list[str] | None,
) -> StudySpec:
    from trisect.bench.study.study_spec import make_spec
    from trisect.bench.study.user_module import load
    from trisect.partitioner.strategies import names

    for file in files or ():
        load(file)
    return make_spec(
        names() if strategies == "all" else parse_names(strategies),
        [word for text in workloads or () for word in text.split()],
        _numbers(seeds),
        objective,  # type: ignore[arg-type]  # checked by make_spec
        time_limit,
        stop_after,
        [str(Path(file).resolve()) for file in files or ()],
    )


def _numbers(text: str) -> list[int]:
    """Parse a list of seeds.

    Examples
    --------
    >>> _numbers("0-3,7")
    [0, 1, 2, 3, 7]
    """
    numbers: list[int] = []
    try:
        for part in text.split(","):
            first, _, last = part.partition("-")
            numbers += range(int(first), int(last or first) + 1)
    except ValueError:
        numbers = []
    if not numbers or len(numbers) > 1_000_000:
        raise InvalidInput(f"invalid --seeds {text!r}: expected integers", remedy="for example --seeds 0-9 or 0,3,7")
    return numbers


def _write(result: Study, folder: Path) -> None:
    from trisect.runtime.atomic_write import write_atomically

    result.to_csv(folder / "rows.csv")
    with contextlib.suppress(EngineMissing):
        result.to_parquet(folder / "rows.parquet")
    write_atomically(folder / "summary.md", result.to_markdown().encode())
    write_atomically(folder / "summary.tex", result.to_latex().encode())
    note(f"written to {folder}: rows.csv, rows.sqlite, summary.md, summary.tex, study.toml")


def _print(result: Study) -> None:
    from trisect.bench.study import summary_tables as tables

    summary = result.summary()
    print_table(tables.columns(), tables.cells(summary))
    for line in tables.notes(summary):
        note(line)
    failed: dict[tuple[str, str], int] = {}
    for row in result.rows:
        if row.status != "ok":
            key = (row.strategy if row.status == "failed" else f"{row.workload} {row.instance}", row.reason)
            failed[key] = failed.get(key, 0) + 1
    for (what, reason), count in list(failed.items())[:_REASONS_MAX]:
        note(f"{what} failed: {reason}" + (f" ({count} runs)" if count > 1 else ""))
    if len(failed) > _REASONS_MAX:
        note(f"and {len(failed) - _REASONS_MAX} other reasons, in the rows")


def _list(json: bool) -> None:
    from trisect.bench.workloads import all_workloads, settings_of

    workloads = all_workloads()
    if json:
        about = [
            {"workload": w.name, "provenance": w.provenance, "licence": w.licence, "settings": settings_of(w)}
            for w in workloads
        ]
        print_json({"workloads": about})
        return
    rows = [
        (w.name, w.provenance, w.licence, " ".join(f"{key}={value}" for key, value in settings_of(w).items()))
        for w in workloads
    ]
    print_table(["workload", "provenance", "licence", "settings"], rows)
