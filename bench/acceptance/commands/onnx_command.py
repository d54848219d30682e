"""``trisect bench onnx``: ONNX's conformance suite on split models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trisect.cli.options import Check, Debug, Json
from trisect.cli.output import note, print_json, print_table, progress_bar


def onnx(
    every: Annotated[int, typer.Option("--every", min=1, help="Run only every Nth case of each kind.")] = 1,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Also write the JSON document to this file.")] = None,
    check: Check = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Run onnx.backend.test with every node a segment on alternating engines, and on each engine alone."""
    import msgspec

    from trisect.runtime.atomic_write import write_atomically

    from ..onnx_backend import bench_onnx_backend
    from ..target_check import exit_if_missed, verdict

    with progress_bar("running") as report:
        result = bench_onnx_backend(every, progress=report)
    document = result.document()
    if out is not None:
        write_atomically(out, msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n")
    if json:
        print_json(document)
    else:
        rows = [("split, each node a segment", f"{document['passed']}", f"{len(document['failed'])}")]
        for device, passed in document["alone"].items():
            rows.append((f"whole on {device}", f"{passed}", f"{document['cases'] - passed}"))
        print_table(["", "passed", "failed or skipped"], rows, title=f"{document['cases']} cases of onnx.backend.test")
        for failure in document["failed"]:
            note(f"{failure['name']}: {failure['reason'][:120]}")
        note(f"target {document['promised']}: {verdict(result.met)}")
    exit_if_missed(check, result.met)
