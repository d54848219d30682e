"""``trisect devices``: list the devices of this machine, of a cluster, or of a machine from the database."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from trisect.runtime.device import Limits

from ..options import Address, Debug, Json, Machine
from ..output import note, print_json, print_table, progress_bar
from ..quantities import size

if TYPE_CHECKING:
    from trisect.profiles.capabilities.op_support_limits import OperatorLimits


def devices(
    devices: Annotated[
        str, typer.Argument(help="Device ids or kinds, comma-separated (cpu:ort,npu), or auto for all.")
    ] = "auto",
    machine: Machine = None,
    address: Address = None,
    limits: Annotated[
        bool,
        typer.Option(
            "--limits", help="Probe what each device supports: operators, data types, rank, shapes, quantisation."
        ),
    ] = False,
    llm: Annotated[
        str | None,
        typer.Option(
            "--llm", metavar="MODEL", help="Show what each device can do with a language model, and how it was checked."
        ),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """List the devices that the installed engines provide."""
    if llm is not None:
        _print_decoder_support(devices, llm, json)
        return
    if limits:
        _print_limits(devices, json)
        return
    from trisect.runtime.engines import unavailable

    from ... import api

    listed = api.devices(devices, machine=machine, address=address)
    missing = unavailable() if machine is None and address is None else {}
    if json:
        print_json({"devices": listed, "absent": missing})
        return
    rows = [
        (
            d.id,
            d.kind,
            d.name,
            f"{d.engine} {d.engine_version}".strip(),
            d.reality,
            size(d.memory_bytes),
            _describe_limits(d.limits),
        )
        for d in listed
    ]
    print_table(["device", "kind", "name", "engine", "reality", "memory", "limits"], rows)
    for engine, reason in missing.items():
        note(f"unavailable: {engine}: {reason}")


def _print_decoder_support(devices: str, model: str, json: bool) -> None:
    from trisect.llm.device_abilities import device_abilities
    from trisect.llm.generate import open_bundle
    from trisect.runtime.engines import find_devices

    listed = find_devices(devices)
    with progress_bar("preparing") as progress:
        bundle = open_bundle(model, progress=progress)
    rows = [device_abilities(bundle, device) for device in listed]
    if json:
        print_json({"model": bundle.name, "devices": rows})
        return
    print_table(
        ["device", "prefill", "decode", "KV cache", "state", "numbers"],
        [(row.device, row.prefill, row.decode, row.mode or "-", row.state, row.verdict or "-") for row in rows],
    )
    for row in rows:
        if row.reason:
            note(row.reason)


def _print_limits(devices: str, json: bool) -> None:
    from ...context.op_support import op_support_limits_per_device

    with progress_bar("probing operators") as report:
        limits_per_device = op_support_limits_per_device(devices, report)
    if json:
        print_json({"devices": limits_per_device})
        return
    rows = [
        (
            device,
            f"{sum(bool(operator.dtypes) for operator in limits.operators.values())} of {len(limits.operators)}",
            ", ".join(limits.data_types),
            "unlimited" if limits.maximum_rank is None else str(limits.maximum_rank),
            "yes" if limits.static_shapes else "no",
            ", ".join(limits.quantised) or "-",
        )
        for device, limits in limits_per_device.items()
    ]
    print_table(["device", "operators", "data types", "max. rank", "static shapes only", "dequantises"], rows)
    for device, limits in limits_per_device.items():
        unsupported = [n for n, operator in limits.operators.items() if not operator.dtypes]
        note(f"{device} refuses: {', '.join(unsupported) or 'nothing'}")
        note(f"{device} computes differently: {_describe_differences(limits.operators) or 'nothing'}")


def _describe_differences(operators: Mapping[str, OperatorLimits]) -> str:
    different = {name: operator.different for name, operator in operators.items() if operator.different}
    return ", ".join(f"{name} ({', '.join(sorted(dtypes))})" for name, dtypes in different.items())


def _describe_limits(limits: Limits) -> str:
    parts = ["static shapes"] if limits.static_shapes else []
    if limits.maximum_rank is not None:
        parts.append(f"rank at most {limits.maximum_rank}")
    if limits.dtypes:
        parts.append(f"{len(limits.dtypes)} data types")
    return ", ".join(parts) or "-"
