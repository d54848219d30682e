"""``trisect bench context``: how long an application waits for a context's answers."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from trisect.cli.options import Check, Debug, Json
from trisect.cli.output import duration, note, print_json, print_table


def context(
    nodes: Annotated[int, typer.Option("--nodes", min=1, help="Size of the model that is asked about.")] = 10_000,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Of each question; the median counts.")] = 20,
    check: Check = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Time what a context answers: creating it, can_run on a large model, query_support."""
    from ..context_latency import bench_context

    found = bench_context(nodes, rounds=rounds)
    bars = found.bars()
    if json:
        versions = {name: version(name) for name in ("trisect", "onnx", "onnxruntime", "openvino")}
        print_json({"versions": versions, **{k: getattr(found, k) for k in found.__dataclass_fields__}, "bars": bars})
    else:
        rows = [(bar.what, bar.promised, bar.measured, "kept" if bar.met else "MISSED") for bar in bars]
        print_table(["what", "promised", "measured", ""], rows)
        note(f"never asked before, the model took {duration(found.can_run_cold_s)}")
        if found.query_support_s is None:
            note("query_support is left out: nobody has probed the devices; run: trisect devices --limits")
    if check and not all(bar.met for bar in bars):
        raise typer.Exit(1)
