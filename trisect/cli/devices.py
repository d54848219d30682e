"""``trisect devices``: what this machine has."""

from __future__ import annotations

from typing import Annotated

import typer

from trisect.runtime.devices import Limits

from .output import Debug, Json, note, print_json, print_table, size


def devices(
    wanted: Annotated[
        str, typer.Argument(help="Ids or kinds, comma-separated (cpu:ort,npu), or auto for all.")
    ] = "auto",
    machine: Annotated[
        str | None, typer.Option("--machine", help="Those of a published machine that is not at hand.")
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """List the devices that the engines installed here offer."""
    from trisect import api
    from trisect.runtime.engines import absent

    found = api.devices(wanted, machine=machine)
    missing = absent() if machine is None else {}
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


def _limits(limits: Limits) -> str:
    told = ["fixed shapes"] if limits.static_shapes else []
    if limits.maximum_rank is not None:
        told.append(f"at most {limits.maximum_rank} dimensions")
    if limits.dtypes:
        told.append(f"{len(limits.dtypes)} dtypes")
    return ", ".join(told) or "-"
