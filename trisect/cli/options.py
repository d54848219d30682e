"""Options that several commands share, as annotated types with the name and help text of each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from .output import set_debug

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output, and nothing else.")]
Debug = Annotated[
    bool, typer.Option("--debug", help="Show the traceback of an error.", callback=set_debug, is_eager=True)
]
Devices = Annotated[
    str,
    typer.Option(
        "--devices", metavar="LIST", help="Device ids or kinds, comma-separated (cpu:ort,npu); auto: all hardware."
    ),
]
Shapes = Annotated[
    list[str] | None,
    typer.Option("--shape", metavar="NAME=INT", help="Size of a symbolic dimension (batch=1, x.0=1); repeatable."),
]
Machine = Annotated[
    str | None,
    typer.Option("--machine", metavar="NAME", help="Use a machine from the built-in database: nvidia-h200, ..."),
]
Address = Annotated[
    str | None, typer.Option("--address", metavar="HOST:PORT", help="Address of a running Ray cluster, or auto.")
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        "--address", metavar="HOST:PORT", help="Address of a running Ray cluster, or auto; implies --executor ray."
    ),
]
Executor = Annotated[
    str, typer.Option("--executor", metavar="NAME", help="Execution backend: threads, processes or ray.")
]
Feeds = Annotated[
    Path | None, typer.Option("--feeds", metavar="FILE", help="Inputs as an .npz file; default: random inputs.")
]
ObjectiveName = Annotated[
    Literal["latency", "throughput", "energy", "memory"],
    typer.Option("--objective", help="Objective to minimise (throughput: time per item)."),
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Random seed.")]
Temperature = Annotated[float, typer.Option("--temperature", min=0.0, help="Sampling temperature; 0 = greedy.")]
TopP = Annotated[
    float,
    typer.Option("--top-p", min=0.0, max=1.0, help="Sample from the most likely tokens up to this total probability."),
]
KvDtypeName = Annotated[
    str,
    typer.Option(
        "--kv-dtype", metavar="NAME",
        help="Dtype of the KV cache: auto, float32, float16 (half the memory); bfloat16, int8 inside some engines.",
    ),
]  # fmt: skip
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="Number of compute threads of each engine.")]
LoadFiles = Annotated[
    list[Path] | None,
    typer.Option("--load", metavar="FILE", help="Python file that registers strategies; it is executed. Repeatable."),
]
Check = Annotated[bool, typer.Option("--check", help="Exit 1 if a target is missed.")]
LanguageModel = Annotated[str, typer.Argument(help="A GGUF file, a model folder, or a Hugging Face id.")]
