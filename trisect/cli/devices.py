"""``trisect devices``: what this machine has."""

from __future__ import annotations

from typing import Annotated

import typer

from .output import Debug, Json, note, print_json, print_table, size


def devices(
    wanted: Annotated[
        str, typer.Argument(help="Ids or kinds, comma-separated (cpu:ort,npu), or auto for all.")
    ] = "auto",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """List the devices that the engines installed here offer."""
    from trisect import api
    from trisect.runtime.engines import absent

    found = api.devices(wanted)
    if json:
        print_json({"devices": found, "absent": absent()})
        return
    rows = [
        (d.id, d.kind, d.name, f"{d.engine} {d.engine_version}".strip(), d.reality, size(d.memory_bytes)) for d in found
    ]
    print_table(["device", "kind", "name", "engine", "reality", "memory"], rows)
    for engine, reason in absent().items():
        note(f"absent: {engine}: {reason}")
