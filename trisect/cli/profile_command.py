"""``trisect profile``: measure what the devices cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .output import Debug, Json, duration, note, print_json, print_table, progress_bar, size
from .plans import parse_shapes, parse_span

if TYPE_CHECKING:
    from trisect.profiles.stored.profile_data import Profile


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
    networks: Annotated[
        str | None,
        typer.Option("--networks", help="Then learn from made-up networks for so long (2m): needs two devices."),
    ] = None,
    address: Annotated[
        str | None, typer.Option("--address", help="Measure the nodes of a Ray cluster: host:port, or auto.")
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure devices and the links between them, and keep the figures for planning.

    Ctrl-C keeps what is measured so far; the next run goes on from there.
    """
    from trisect.profiles.stored import profile_store as store

    from .. import api
    from ..network_fitting import fit_on_networks

    budget_s, shapes = parse_span(budget), parse_shapes(shape or [])
    try:
        with progress_bar("measuring") as report:
            measured = api.profile(
                devices, budget_s=budget_s, model=model, shapes=shapes, address=address, progress=report
            )
        if networks is not None:
            with progress_bar("learning") as report:
                span_s = parse_span(networks, "--networks")
                store_of = fit_on_networks(devices, budget_s=span_s, model=model, shapes=shapes, progress=report)
            counts = ", ".join(f"{len(rows)} on {device}" for device, rows in store_of.devices.items())
            note(f"segments learned from: {counts}")
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
            duration(d.load_s),
            f"{d.peak_flops / 1e9:,.0f} GFLOP/s" if d.peak_flops else "-",
            f"{d.power_w:.3g} W" if d.power_w is not None else "not measured",
        )
        for d in measured.devices.values()
    ]
    print_table(
        ["device", "operators measured", "a call", "a small operator", "to load a model", "matrix product", "power"],
        rows,
    )
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
    _tell_memory(measured)
    _tell_wakings(measured)
    _tell_contention(measured)
    origin = measured.provenance
    note(f"{origin.source} on {origin.cpu}, {origin.date}; kept in {store.default_path(measured.precision)}")


def _tell_memory(measured: Profile) -> None:
    from trisect.profiles.measuring.memory_measurement import memory_need

    rows = []
    for d in measured.devices.values():
        need = memory_need(d)
        if need is None:
            rows.append((d.device, "not measured", "-", "-"))
        else:
            factors = f"{need.per_weight:.2f} x", f"{need.per_tensor:.2f} x"
            rows.append((d.device, size(round(need.model_bytes)), *factors))
    print_table(["memory", "a loaded model", "its weights", "its tensors"], rows)


def _tell_wakings(measured: Profile) -> None:
    rows = [
        (f"{device.device} behind {waking.beside}", duration(waking.idle_s), f"+ {duration(waking.more_s)}")
        for device in measured.devices.values()
        for waking in device.wakings
    ]
    if rows:
        print_table(["a call in turns", "which took", "takes"], rows)


def _tell_contention(measured: Profile) -> None:
    rows = [
        (f"{c.device} beside {c.beside}", c.executor, c.op_class.value, f"{c.slowdown:.2f} x")
        for c in measured.contention
    ]
    if rows:
        print_table(["at once", "in", "work", "takes"], rows)
