"""``trisect profile``: measure what the devices cost."""

from __future__ import annotations

from typing import Annotated

import typer

from .output import Debug, Json, duration, note, print_json, print_table, progress_bar, size


def profile(
    devices: Annotated[str, typer.Option("--devices", help="Ids or kinds, comma-separated, or auto for all.")] = "auto",
    budget: Annotated[float, typer.Option("--budget", min=0.1, help="Seconds that measuring may take.")] = 30.0,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure devices and the links between them, and keep the figures for planning."""
    from trisect import api
    from trisect.profiles import store

    with progress_bar("measuring") as report:
        measured = api.profile(devices, budget_s=budget, progress=report)
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
        )
        for d in measured.devices.values()
    ]
    print_table(["device", "operators measured", "a call", "a small operator", "matrix product"], rows)
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
