"""``trisect profile``: measure the costs of devices and links."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..option_parsing import parse_duration, parse_shapes
from ..options import Address, Debug, Devices, Json, Shapes, Threads
from ..output import note, print_json, print_table, progress_bar
from ..quantities import duration, size

if TYPE_CHECKING:
    from trisect.profiles.stored.profile_data import Profile


def profile(
    devices: Devices = "auto",
    budget: Annotated[str, typer.Option("--budget", metavar="DURATION", help="Time for measuring: 30s, 2m.")] = "30s",
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            metavar="FILE",
            help="Measure the operators of this ONNX model first, at its shapes; or prefill and decode of a language "
            "model (a GGUF file or a folder), and nothing else.",
        ),
    ] = None,
    shape: Shapes = None,
    networks: Annotated[
        str | None,
        typer.Option(
            "--networks",
            metavar="DURATION",
            help="Then measure synthetic networks for this time (2m) to fit the overhead of cuts; needs two devices.",
        ),
    ] = None,
    threads: Threads = None,
    address: Address = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure devices and the links between them, and store the costs for planning.

    Ctrl-C stores the measurements so far; the next run continues from there.
    """
    from trisect.profiles.stored import profile_store as store

    from ... import api
    from ...foreign_profile import foreign_profile_note
    from ...measurement_gaps import measurement_gaps
    from ...network_fitting import fit_on_networks

    budget_s, shapes = parse_duration(budget), parse_shapes(shape or [])
    if model is not None and (model.suffix == ".gguf" or model.is_dir()):
        _measure_language_model(model, devices, budget_s, threads, as_json=json)
        return
    try:
        with progress_bar("measuring") as report:
            measured = api.profile(
                devices, budget_s=budget_s, model=model, shapes=shapes, address=address, progress=report
            )
        if networks is not None:
            with progress_bar("fitting") as report:
                span_s = parse_duration(networks, "--networks")
                store_of = fit_on_networks(devices, budget_s=span_s, model=model, shapes=shapes, progress=report)
            counts = ", ".join(f"{len(rows)} on {device}" for device, rows in store_of.devices.items())
            note(f"segments learned from: {counts}")
    except KeyboardInterrupt:
        note("measurements so far are stored; run the command again to continue")
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
            f"{d.power_w:.3g} W" if d.power_w is not None else "-",
        )
        for d in measured.devices.values()
    ]
    columns = ["device", "operators", "call overhead", "operator overhead", "load time", "peak compute", "power"]
    print_table(columns, rows, title="measured", optional=["power"])
    links = [
        (
            f"{link.source} to {link.target}",
            duration(link.latency_s),
            f"{size(round(link.bandwidth_bytes_per_s))}/s" if link.bandwidth_bytes_per_s else "zero-copy",
        )
        for link in measured.links
    ]
    if links:
        print_table(["link", "latency", "bandwidth"], links)
    _print_memory(measured)
    _print_wakeup_costs(measured)
    _print_contention(measured)
    if all(d.power_w is None for d in measured.devices.values()):
        note("power is not measured: no counter of these devices can be read here")
    if address is None:
        for sentence in (*measurement_gaps(measured, api.usable_devices(devices)), foreign_profile_note("float32")):
            if sentence:
                note(sentence)
    origin = measured.provenance
    note(f"{origin.source} on {origin.cpu}, {origin.date}; stored in {store.default_path(measured.precision)}")


def _measure_language_model(model: Path, devices: str, budget_s: float, threads: int | None, *, as_json: bool) -> None:
    """Measure prefill and decode of a language model on each device, for `generate` and `chat`."""
    from trisect.llm.generate import measure

    try:
        with progress_bar("measuring") as report:
            measured, excluded = measure(model, devices, budget_s=budget_s, threads=threads, progress=report)
    except KeyboardInterrupt:
        note("measurements so far are stored; run the command again to continue")
        raise
    if as_json:
        print_json({"phases": measured, "excluded": excluded})
        return
    rows = [
        (
            id_,
            ", ".join(f"{p.tokens / p.time_s:,.0f} at {p.tokens}" for p in device.prefill if p.tokens > 1),
            ", ".join(f"{1 / p.time_s:,.0f} at {p.tokens}" for p in device.decode),
            duration(device.load_s),
        )
        for id_, device in measured.devices.items()
    ]
    columns = ["device", "prefill tok/s at length", "decode tok/s at length", "load time"]
    print_table(columns, rows, title="measured")
    for device, reason in excluded.items():
        note(f"{device} is left out: {reason}")
    note("`trisect generate` and `trisect chat` choose devices from these measurements")


def _print_memory(measured: Profile) -> None:
    from trisect.profiles.costmodel.memory_need import memory_need

    rows = []
    for d in measured.devices.values():
        need = memory_need(d)
        if need is None:
            rows.append((d.device, "not measured", "-", "-"))
        else:
            factors = f"{need.per_weight:.2f} x", f"{need.per_tensor:.2f} x"
            rows.append((d.device, size(round(need.model_bytes)), *factors))
    print_table(["memory", "per loaded model", "per weight byte", "per tensor byte"], rows)


def _print_wakeup_costs(measured: Profile) -> None:
    rows = [
        (f"{device.device} after {wakeup.beside}", duration(wakeup.idle_s), f"+ {duration(wakeup.extra_s)}")
        for device in measured.devices.values()
        for wakeup in device.wakeups
    ]
    if rows:
        print_table(["call on a cold engine", "after", "extra time"], rows)


def _print_contention(measured: Profile) -> None:
    rows = [
        (f"{c.device} beside {c.beside}", c.executor, c.op_class.value, f"{c.slowdown:.2f} x")
        for c in measured.contention
    ]
    if rows:
        print_table(["contention", "executor", "op class", "slowdown"], rows)
