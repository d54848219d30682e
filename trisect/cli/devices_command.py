"""``trisect devices``: what this machine has."""

from __future__ import annotations

from typing import Annotated

import typer

from trisect.runtime.device import Limits

from .output import Debug, Json, note, print_json, print_table, progress_bar, size


def devices(
    wanted: Annotated[
        str, typer.Argument(help="Ids or kinds, comma-separated (cpu:ort,npu), or auto for all.")
    ] = "auto",
    machine: Annotated[
        str | None, typer.Option("--machine", help="Those of a published machine that is not at hand.")
    ] = None,
    address: Annotated[
        str | None, typer.Option("--address", help="Those of a Ray cluster: host:port, or auto.")
    ] = None,
    limits: Annotated[
        bool,
        typer.Option("--limits", help="What each takes, as found by compiling: operators, dtypes, rank, quantisation."),
    ] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """List the devices that the engines installed here offer."""
    if limits:
        _print_limits(wanted, json)
        return
    from trisect.runtime.engines import unavailable

    from .. import api

    found = api.devices(wanted, machine=machine, address=address)
    missing = unavailable() if machine is None and address is None else {}
    if json:
        print_json({"devices": found, "absent": missing})
        return
    rows = [
        (
            d.id,
            d.kind,
            d.name,
            f"{d.engine} {d.engine_version}".strip(),
            d.reality,
            size(d.memory_bytes),
            _limits(d.limits),
        )
        for d in found
    ]
    print_table(["device", "kind", "name", "engine", "reality", "memory", "limits"], rows)
    for engine, reason in missing.items():
        note(f"absent: {engine}: {reason}")


def _print_limits(wanted: str, json: bool) -> None:
    from ..context.op_support import op_support_limits_per_device

    with progress_bar("trying operators") as report:
        found = op_support_limits_per_device(wanted, report)
    if json:
        print_json({"devices": found})
        return
    rows = [
        (
            device,
            f"{sum(bool(operator.dtypes) for operator in one.operators.values())} of {len(one.operators)}",
            ", ".join(one.data_types),
            "not restricted" if one.maximum_rank is None else str(one.maximum_rank),
            "yes" if one.static_shapes else "no",
            ", ".join(one.quantised) or "-",
        )
        for device, one in found.items()
    ]
    print_table(["device", "operators", "dtypes", "rank at most", "fixed shapes only", "dequantises"], rows)
    for device, one in found.items():
        refused = [name for name, operator in one.operators.items() if not operator.dtypes]
        note(f"{device} compiles none of: {', '.join(refused) or 'nothing, it takes all'}")


def _limits(limits: Limits) -> str:
    told = ["fixed shapes"] if limits.static_shapes else []
    if limits.maximum_rank is not None:
        told.append(f"at most {limits.maximum_rank} dimensions")
    if limits.dtypes:
        told.append(f"{len(limits.dtypes)} dtypes")
    return ", ".join(told) or "-"
