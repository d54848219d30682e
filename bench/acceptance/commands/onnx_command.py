"""``trisect bench onnx``: ONNX's conformance suite through split models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trisect.cli.options import Check, Debug, Json
from trisect.cli.output import note, print_json, print_table, progress_bar


def onnx(
    every: Annotated[int, typer.Option("--every", min=1, help="Run each so many-th case of each kind only.")] = 1,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the JSON document to this file too.")] = None,
    check: Check = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Run onnx.backend.test with every node a segment and the engines taking turns, and on each engine alone."""
    import msgspec

    from trisect.profiles.stored.profile_store import write_aside

    from ..onnx_backend import bench_onnx_backend

    with progress_bar("running") as report:
        result = bench_onnx_backend(every, progress=report)
    document = result.document()
    if out is not None:
        write_aside(out, msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n")
    if json:
        print_json(document)
    else:
        rows = [("split, each node a segment", f"{document['passed']}", f"{len(document['failed'])}")]
        for device, passed in document["alone"].items():
            rows.append((f"whole on {device}", f"{passed}", f"{document['cases'] - passed}"))
        print_table(["", "passed", "failed or skipped"], rows, title=f"{document['cases']} cases of onnx.backend.test")
        for failure in document["failed"]:
            note(f"{failure['name']}: {failure['reason'][:120]}")
        note(f"promised {document['promised']}: {'kept' if result.met else 'MISSED'}")
    if check and not result.met:
        raise typer.Exit(1)
