"""``trisect bench MODEL.onnx``: every strategy and every peer on one model, measured in the same run."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from trisect.runtime.errors import InvalidInput, StorageFailed

from .output import Debug, Json, duration, note, print_json, print_table, progress_bar, quantity
from .plans import parse_shapes, parse_span, read_feeds

if TYPE_CHECKING:
    from trisect.bench.comparing.comparison import Comparison, Result
    from trisect.scheduler.problem.rules import Objective

_COLUMNS = ("", "latency (95 %)", "predicted", "per s", "seg.", "moved", "memory", "energy", "gap", "max diff")
_NOTABLE = 0.01
"""A difference of a larger part of the output's magnitude is shown as such."""


def model(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="An ONNX model.")],
    strategies: Annotated[str, typer.Option("--strategies", help="Names, comma-separated, or all.")] = "all",
    devices: Annotated[
        str, typer.Option("--devices", help="Ids or kinds, comma-separated, or auto for all hardware.")
    ] = "auto",
    objective: Annotated[
        Literal["latency", "throughput", "energy", "memory"],
        typer.Option("--objective", help="What to make good, and to sort by."),
    ] = "latency",
    shape: Annotated[
        list[str] | None, typer.Option("--shape", help="Value of a symbolic dimension, name=number; repeatable.")
    ] = None,
    feeds: Annotated[
        Path | None, typer.Option("--feeds", help="Inputs in an .npz file; random ones when left out.")
    ] = None,
    budget: Annotated[str, typer.Option("--budget", help="How long measuring may take: 30s, 2m.")] = "60s",
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Computing threads of every system.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="For random inputs, and strategies that draw lots.")] = 0,
    peers: Annotated[bool, typer.Option("--peers/--no-peers", help="Measure other systems too.")] = True,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget what an earlier run of the same measured.")] = False,
    load: Annotated[
        list[Path] | None, typer.Option("--load", help="A Python file of yours that registers strategies; it is run.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", help="Write a report to look at: one HTML file, without network.")
    ] = None,
    trace: Annotated[
        Path | None, typer.Option("--trace", help="Write predicted and measured timelines, to open in Perfetto.")
    ] = None,
    format: Annotated[
        Literal["table", "md", "csv", "json"], typer.Option("--format", help="Of standard output.")
    ] = "table",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Compare strategies with each other and with other systems on one model.

    Everything takes turns in processes of its own until the confidence intervals are narrow or the budget is spent.
    Ctrl-C prints what is measured so far; the next run of the same goes on from there.
    """
    from trisect.bench.comparing.compare import compare
    from trisect.bench.comparing.comparison_formats import as_csv, as_markdown, as_trace

    for target in (report, trace):
        if target is not None:
            _check_writable(target)
    if report is not None:
        from trisect.bench.report import check_installed

        check_installed()
    for file in load or ():
        from trisect.bench.study.user_module import load as load_file

        load_file(file)
    with progress_bar("comparing") as progress:
        found = compare(
            model, strategies, devices, objective, parse_shapes(shape or []),
            feeds=read_feeds(feeds) if feeds is not None else None, budget_s=parse_span(budget), threads=threads,
            seed=seed, peers=peers, fresh=fresh, progress=progress,
        )  # fmt: skip
    if json or format == "json":
        print_json(found)
    elif format == "csv":
        sys.stdout.write(as_csv(found))
    elif format == "md":
        sys.stdout.write(as_markdown(_columns(found), [_row(result, found) for result in found.results]))
    else:
        print_table(_columns(found), [_row(result, found) for result in found.results], title=_title(found))
    sys.stdout.flush()
    if trace is not None:
        _write(trace, as_trace(found))
    if report is not None:
        from trisect.bench.report import write_report

        write_report(found, report)
    _notes(found, report, trace)
    if found.interrupted:
        raise KeyboardInterrupt


def _title(found: Comparison) -> str:
    devices = ", ".join(d.id if d.is_real else f"{d.id} ({d.reality})" for d in found.devices)
    return (
        f"{found.model} on {devices}, sorted by {found.objective}: medians, measured in turns; "
        "predictions from measured costs"
    )


def _columns(found: Comparison) -> list[str]:
    """Predicted is what the objective is about."""
    title = {"latency": "predicted", "throughput": "predicted per s"}.get(found.objective)
    return [(title or f"predicted {found.objective}") if name == "predicted" else name for name in _COLUMNS]


def _row(result: Result, found: Comparison) -> tuple[str, ...]:
    name = result.name if result.kind == "strategy" else f"{result.name} (peer)"
    if result.also:
        name += f" = {', '.join(result.also)}"
    if result.reality != "hardware":
        name += f" [{result.reality}]"
    if result.failed is not None:
        return f"{name}: failed", *(["-"] * (len(_COLUMNS) - 1))
    return (
        f"* {name}" if result.best else name,
        _latency(result),
        _predicted(result, found.objective),
        _rate(result.throughput_hz),
        str(result.segments) if result.segments is not None else "-",
        f"{result.transfers}, {_megabytes(result.transfer_bytes)}" if result.transfers else "-",
        _megabytes(result.peak_bytes),
        quantity(result.energy_j, "energy") if result.energy_j is not None else "not measured",
        f"{result.gap:.0%}" if result.gap is not None else "-",
        _difference(result),
    )


def _predicted(result: Result, objective: Objective) -> str:
    schedule = result.predicted
    if schedule is None or result.value is None:
        return "-"
    if objective == "throughput":
        return _rate(schedule.throughput_hz)
    return quantity(schedule.latency_s if objective == "latency" else result.value, objective)


def _rate(rate_hz: float | None) -> str:
    return "-" if rate_hz is None else f"{rate_hz:,.0f}" if rate_hz >= 1000 else f"{rate_hz:.3g}"


def _difference(result: Result) -> str:
    if result.max_abs is None or result.max_rel is None:
        return "-" if result.ok is None else "WRONG"
    share = f" ({result.max_rel:.0%})" if result.max_rel > _NOTABLE else ""
    return f"{result.max_abs:.1e}{share}{'' if result.ok else ' WRONG'}"


def _megabytes(size_bytes: int | None) -> str:
    return f"{size_bytes / 1e6:.3g} MB" if size_bytes is not None else "-"


def _latency(result: Result) -> str:
    if result.latency_s is None or result.latency_low_s is None or result.latency_high_s is None:
        return f"{duration(result.latency_s)} ±?"
    half = (result.latency_high_s - result.latency_low_s) / 2
    return f"{duration(result.latency_s)} ±{half / result.latency_s:.1%}"


def _notes(found: Comparison, report: Path | None, trace: Path | None) -> None:
    for result in found.results:
        if result.failed is not None:
            note(f"{result.name} failed: {result.failed}")
        elif result.same_as is not None:
            note(f"{result.name} is {result.same_as} here: {result.note}")
        elif result.note:
            note(f"{result.name}: {result.note}")
    if any(r.energy_j is not None for r in found.results):
        note("energy is all that the devices' counters told over an input, what the idle machine draws included")
    else:
        note("energy is not measured: no counter of these devices can be read here")
    if not found.is_measured:
        note(f"sorted by what is predicted: {found.objective} could not be measured")
    if found.noise is not None:
        note(f"machine: {found.noise.describe()}")
    if found.rounds == 0:
        note(f"nothing was measured now: all is known since {found.date} (--fresh measures again)")
    elif found.resumed:
        note(f"turns of an earlier run are in these figures, from {found.date} on (--fresh leaves them out)")
    if any(r.latency_low_s is None and r.failed is None for r in found.results):
        note("±? = too few turns for an interval: run it again to go on, or give a larger --budget")
    best = found.best
    if best is not None:
        ties = ", ".join(result.name for result in found.ties)
        note(f"* {best.name} is best" + (f"; not told apart from it: {ties}" if ties else ""))
        if best.kind == "strategy":
            wish = "" if found.objective == "latency" else f" --objective {found.objective}"
            note(f"to use it: trisect split {found.model} --strategy {best.name}{wish} -o plan/")
    for target in filter(None, (report, trace)):
        note(f"written: {target}")


def _check_writable(target: Path) -> None:
    """Before minutes of measuring, not after them."""
    if target.is_dir():
        raise InvalidInput(f"{target} is a folder", remedy="name a file")
    try:
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise StorageFailed(f"{target} cannot be written: {error.strerror or error}") from error


def _write(target: Path, document: object) -> None:
    import msgspec

    from trisect.profiles.stored.profile_store import write_aside

    write_aside(target, msgspec.json.encode(document))
