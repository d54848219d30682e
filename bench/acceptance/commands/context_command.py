"""``trisect bench context``: the latency of a context's answers."""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import version
from typing import Annotated

import typer

from trisect.cli.options import Check, Debug, Json
from trisect.cli.output import note, print_json
from trisect.cli.quantities import duration


def context(
    nodes: Annotated[int, typer.Option("--nodes", min=1, help="Number of nodes of the model.")] = 10_000,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Repetitions of each call; the median counts.")] = 20,
    check: Check = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Time the calls of a context: create_context, can_run on a large model, query_support."""
    from ..context_latency import bench_context
    from ..target_check import exit_if_missed, print_checks

    latency = bench_context(nodes, rounds=rounds)
    checks = latency.checks()
    if json:
        versions = {name: version(name) for name in ("trisect", "onnx", "onnxruntime", "openvino")}
        print_json({"versions": versions, **asdict(latency), "bars": checks})
    else:
        print_checks(checks)
        note(f"can_run on the model for the first time took {duration(latency.can_run_cold_s)}")
        if latency.query_support_s is None:
            note("query_support was not measured: no device limits are known; run: trisect devices --limits")
    exit_if_missed(check, all(target.met for target in checks))
