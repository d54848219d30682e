"""``trisect profile``: measure what the devices cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trisect.runtime.errors import InvalidInput

from .output import Debug, Json, duration, note, print_json, print_table, progress_bar, size
from .plans import parse_shapes

_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0}


def profile(
    devices: Annotated[
        str, typer.Option("--devices", help="Ids or kinds, comma-separated, or auto for all hardware.")
    ] = "auto",
    budget: Annotated[str, typer.Option("--budget", help="How long measuring may take: 30s, 2m.")] = "30s",
    model: Annotated[
        Path | None, typer.Option("--model", help="Measure the operators of this ONNX model, at its shapes, first.")
    ] = None,
    shape: Annotated[
        list[str] | None, typer.Option("--shape", help="Value of a symbolic dimension, name=number; repeatable.")
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure devices and the links between them, and keep the figures for planning.

    Ctrl-C keeps what is measured so far; the next run goes on from there.
    """
    from trisect import api
    from trisect.profiles import store

    budget_s, shapes = _seconds(budget), parse_shapes(shape or [])
    try:
        with progress_bar("measuring") as report:
            measured = api.profile(devices, budget_s=budget_s, model=model, shapes=shapes, progress=report)
    except KeyboardInterrupt:
        note("what is measured so far is kept: run it again to go on")
        raise
    if json:
        print_json(measured)
        return
    rows = [
        (
            d.device,
            str(len(d.points)),
            duration(d.call_overhead_s),
            duration(d.node_overhead_s),
            f"{d.peak_flops / 1e9:,.0f} GFLOP/s" if d.peak_flops else "-",
            f"{d.power_w:.3g} W" if d.power_w is not None else "not measured",
        )
        for d in measured.devices.values()
    ]
    print_table(["device", "operators measured", "a call", "a small operator", "matrix product", "power"], rows)
    links = [
        (
            f"{link.source} to {link.target}",
            duration(link.latency_s),
            f"{size(round(link.bandwidth_bytes_per_s))}/s" if link.bandwidth_bytes_per_s else "by reference",
        )
        for link in measured.links
    ]
    if links:
        print_table(["hand-over", "latency", "bandwidth"], links)
    origin = measured.provenance
    note(f"{origin.source} on {origin.cpu}, {origin.date}; kept in {store.default_path(measured.precision)}")


def _seconds(text: str) -> float:
    """A span of time as a user writes it.

    Examples
    --------
    >>> _seconds("90"), _seconds("30s"), _seconds("1.5m")
    (90.0, 30.0, 90.0)
    """
    number, factor = text.strip(), 1.0
    if number[-1:] in _UNITS_S:
        number, factor = number[:-1], _UNITS_S[number[-1]]
    try:
        value = float(number) * factor
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise InvalidInput(f"--budget {text!r} is no span of time", remedy="write it as 30s or 2m")
    return value
