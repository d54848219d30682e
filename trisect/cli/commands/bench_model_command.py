"""``trisect bench MODEL.onnx``: compare all strategies and peers on one model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from trisect.runtime.errors import InvalidInput

from ..array_files import read_feeds
from ..option_parsing import parse_duration, parse_shapes
from ..options import Debug, Devices, Feeds, Json, LoadFiles, ObjectiveName, Seed, Shapes, Threads
from ..output import note, print_json, print_table, print_text, progress_bar
from ..plan_tables import INTERVAL
from ..quantities import duration, interval_text, quantity

if TYPE_CHECKING:
    from trisect.bench.comparing.comparison import Comparison, ComparisonResult
    from trisect.scheduler.problem.rules import Objective

_COLUMNS = (
    "",
    "latency (95 %)",
    "predicted",
    INTERVAL,
    "per s",
    "seg.",
    "moved",
    "memory",
    "energy",
    "gap",
    "max diff",
)
_SHOWN_SHARE_MIN = 0.01
"""A larger difference, as a share of the output's magnitude, is shown as a percentage."""


def model(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="An ONNX model.")],
    strategies: Annotated[
        str, typer.Option("--strategies", metavar="LIST", help="Placement strategies, comma-separated, or all.")
    ] = "all",
    devices: Devices = "auto",
    objective: ObjectiveName = "latency",
    shape: Shapes = None,
    feeds: Feeds = None,
    budget: Annotated[str, typer.Option("--budget", metavar="DURATION", help="Time for measuring: 30s, 2m.")] = "60s",
    threads: Threads = None,
    seed: Seed = 0,
    peers: Annotated[bool, typer.Option("--peers/--no-peers", help="Compare with other systems.")] = True,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Discard the measurements of an earlier, interrupted run.")
    ] = False,
    load: LoadFiles = None,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="Write an HTML report, one self-contained file.")
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option("--trace", metavar="FILE", help="Write predicted and measured timelines for Perfetto."),
    ] = None,
    format: Annotated[
        Literal["table", "md", "csv", "json"], typer.Option("--format", help="Format of standard output.")
    ] = "table",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Compare strategies with each other and with other systems on one model.

    Each runs in a process of its own; they take turns until the confidence intervals are narrow or the budget is spent.
    Ctrl-C prints what is measured so far; the next run resumes from there.
    """
    from trisect.bench.comparing.compare import ComparisonRequest, compare
    from trisect.bench.comparing.comparison_formats import as_csv, as_markdown, as_trace
    from trisect.runtime.files.output_paths import check_output_file
    from trisect.runtime.tensors.external_data import model_files

    for target in filter(None, (report, trace)):
        check_output_file(target, [*model_files(model), feeds, *map(Path, load or ())])
    if report is not None and trace is not None and report.resolve() == trace.resolve():
        raise InvalidInput(f"--report and --trace both name {report}", remedy="name two files")
    if report is not None:
        from trisect.bench.report import check_installed

        check_installed()
    for file in load or ():
        from trisect.bench.study.user_module import load as load_file

        load_file(file)
    with progress_bar("comparing") as progress:
        request = ComparisonRequest(
            model, strategies, devices, objective, parse_shapes(shape or []),
            feeds=read_feeds(feeds), budget_s=parse_duration(budget), threads=threads,
            seed=seed, peers=peers, fresh=fresh,
        )  # fmt: skip
        comparison = compare(request, progress)
    if json or format == "json":
        print_json(comparison)
    elif format == "csv":
        print_text(as_csv(comparison))
    elif format == "md":
        print_text(as_markdown(_columns(comparison), [_row(result, comparison) for result in comparison.results]))
    else:
        print_table(
            _columns(comparison),
            [_row(result, comparison) for result in comparison.results],
            title=_title(comparison),
            optional=[INTERVAL, "energy"],
        )
    if trace is not None:
        _write(trace, as_trace(comparison))
    if report is not None:
        from trisect.bench.report import write_report

        write_report(comparison, report)
    _notes(comparison, report, trace)
    if comparison.interrupted:
        raise KeyboardInterrupt


def _title(comparison: Comparison) -> str:
    devices = ", ".join(d.id if d.is_real else f"{d.id} ({d.reality})" for d in comparison.devices)
    return (
        f"{comparison.model} on {devices}, sorted by {comparison.objective}: medians of interleaved runs; "
        "predictions from measured costs"
    )


def _columns(comparison: Comparison) -> list[str]:
    """Return the column titles; the predicted value is that of the objective."""
    title = "predicted" if comparison.objective == "latency" else f"predicted {comparison.objective}"
    return [title if name == "predicted" else name for name in _COLUMNS]


def _row(result: ComparisonResult, comparison: Comparison) -> tuple[str, ...]:
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
        *_predicted(result, comparison.objective),
        _rate(result.throughput_hz),
        str(result.segments) if result.segments is not None else "-",
        f"{result.transfers}, {_megabytes(result.transfer_bytes)}" if result.transfers else "-",
        _megabytes(result.peak_bytes),
        quantity(result.energy_j, "energy") if result.energy_j is not None else "-",
        f"{result.gap:.0%}" if result.gap is not None else "-",
        _difference(result),
    )


def _predicted(result: ComparisonResult, objective: Objective) -> tuple[str, str]:
    """Return the predicted value of the objective, and its interval."""
    schedule = result.predicted
    if schedule is None or result.value is None:
        return "-", "-"
    if objective == "latency":
        return duration(schedule.latency_s), interval_text(schedule.latency_interval_s, schedule.latency_s)
    low, high = result.value_low, result.value_high
    interval = (low, high) if low is not None and high is not None else None
    return quantity(result.value, objective), interval_text(interval, result.value, objective)


def _rate(rate_hz: float | None) -> str:
    return "-" if rate_hz is None else f"{rate_hz:,.0f}" if rate_hz >= 1000 else f"{rate_hz:.3g}"


def _difference(result: ComparisonResult) -> str:
    if result.max_abs is None or result.max_rel is None:
        return "-" if result.ok is None else "WRONG"
    share = f" ({result.max_rel:.0%})" if result.max_rel > _SHOWN_SHARE_MIN else ""
    return f"{result.max_abs:.1e}{share}{'' if result.ok else ' WRONG'}"


def _megabytes(size_bytes: int | None) -> str:
    return f"{size_bytes / 1e6:.3g} MB" if size_bytes is not None else "-"


def _latency(result: ComparisonResult) -> str:
    if result.latency_s is None or result.latency_low_s is None or result.latency_high_s is None:
        return f"{duration(result.latency_s)} ±?"
    half = (result.latency_high_s - result.latency_low_s) / 2
    return f"{duration(result.latency_s)} ±{half / result.latency_s:.1%}"


def _notes(comparison: Comparison, report: Path | None, trace: Path | None) -> None:
    for result in comparison.results:
        if result.failed is not None:
            note(f"{result.name} failed: {result.failed}")
        elif result.same_as is not None:
            note(f"{result.name} is {result.same_as} here: {result.note}")
        elif result.note:
            note(f"{result.name}: {result.note}")
    if any(r.energy_j is not None for r in comparison.results):
        note("energy is that of the devices' counters for one input, idle power included")
    else:
        note("energy is not measured: no counter of these devices can be read here")
    if not comparison.is_measured:
        note(f"sorted by predicted {comparison.objective}: it could not be measured")
    if comparison.noise is not None:
        note(f"machine: {comparison.noise.describe()}")
    if comparison.rounds == 0:
        note(f"nothing had to be measured: all results are cached since {comparison.date} (--fresh measures again)")
    elif comparison.resumed:
        note(f"the results include rounds of earlier runs since {comparison.date} (--fresh ignores them)")
    if any(r.latency_low_s is None and r.failed is None for r in comparison.results):
        note("±? = too few rounds for a confidence interval: run it again to resume, or increase --budget")
    best = comparison.best
    if best is not None:
        ties = ", ".join(result.name for result in comparison.ties)
        note(f"* {best.name} is best" + (f"; not significantly different: {ties}" if ties else ""))
        if best.kind == "strategy":
            option = "" if comparison.objective == "latency" else f" --objective {comparison.objective}"
            note(f"to use it: trisect split {comparison.model} --strategy {best.name}{option} -o plan/")
    for target in filter(None, (report, trace)):
        note(f"written: {target}")


def _write(target: Path, document: object) -> None:
    import msgspec

    from trisect.runtime.atomic_write import write_atomically

    write_atomically(target, msgspec.json.encode(document))
