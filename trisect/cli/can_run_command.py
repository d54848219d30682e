"""``trisect can-run``: whether a model would run here, before it is downloaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from .output import Debug, Json, duration, note, print_json, print_table, progress_bar, size
from .plans import parse_shapes

if TYPE_CHECKING:
    from trisect.runtime.errors import TrisectError

    from ..context.model_support import ModelSupport

_REASONS = 2


def can_run(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="An ONNX file (with weights or without), GGUF (or its first megabytes), TFLite, a language model's "
            "folder or config.json, or a name as on a hub. Of several, the best is named.",
        ),
    ],
    devices: Annotated[str, typer.Option("--devices", help="Ids or kinds, comma-separated, or auto.")] = "auto",
    machine: Annotated[
        str | None, typer.Option("--machine", help="A published machine that is not at hand: nvidia-h200, ...")
    ] = None,
    shape: Annotated[
        list[str] | None, typer.Option("--shape", help="Value of a symbolic dimension, name=number; repeatable.")
    ] = None,
    file: Annotated[
        list[str] | None,
        typer.Option("--file", help="Name of a file that the hub lists for the model; repeatable."),
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", help="Tag that the hub gives the model; repeatable.")
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Say whether, where and how fast a model would run, from what is there of it; exit code 1 where it would not."""
    from trisect.runtime.errors import InvalidInput

    from ..context.can_run import best_of
    from ..context.can_run import can_run as ask

    if (file or tag) and len(sources) > 1:
        raise InvalidInput("--file and --tag describe one model", remedy="ask about the models one by one")
    told = {"name": sources[0], "files": file or [], "tags": tag or []} if file or tag else sources[0]
    with progress_bar("asking") as report:
        if len(sources) > 1:
            best, answers = best_of(sources, devices, machine=machine)
        else:
            best, answers = 0, [ask(told, devices, machine=machine, shapes=parse_shapes(shape or []), progress=report)]
    if json:
        found = [_document(source, answer) for source, answer in zip(sources, answers, strict=True)]
        print_json({"best": sources[best], "candidates": found} if len(found) > 1 else found[0])
    else:
        for source, answer in zip(sources, answers, strict=True):
            _show(source, answer)
        if len(sources) > 1:
            note(f"take {sources[best]}")
    chosen = answers[best]
    if isinstance(chosen, Exception) or chosen.ability == "no":
        raise typer.Exit(1)


def _document(source: str, answer: ModelSupport | TrisectError) -> object:
    return {"name": source, "error": str(answer)} if isinstance(answer, Exception) else answer


def _show(source: str, answer: ModelSupport | TrisectError) -> None:
    if isinstance(answer, Exception):
        note(f"{source}: {answer}")
        return
    rows = [
        (
            verdict.device,
            verdict.ability,
            duration(verdict.latency_s),
            f"{verdict.prefill_tok_s:,.0f} tok/s" if verdict.prefill_tok_s else "-",
            f"{verdict.decode_tok_s:,.0f} tok/s" if verdict.decode_tok_s else "-",
            "; ".join(verdict.reasons[:_REASONS]) or "-",
        )
        for verdict in answer.devices.values()
    ]
    title = f"{answer.name} ({answer.kind}): {answer.ability}, certainty {answer.confidence}"
    title += f", {size(answer.memory_bytes)} of memory" if answer.memory_bytes is not None else ""
    is_text = any(verdict.prefill_tok_s or verdict.decode_tok_s for verdict in answer.devices.values())
    columns = ["device", "runs it", "predicted", "prefill at most", "decode at most", "why"]
    kept = (0, 1, 3, 4, 5) if is_text else (0, 1, 2, 5)
    print_table([columns[i] for i in kept], [[row[i] for i in kept] for row in rows], title=title)
    if answer.measured_latency_s is not None:
        note(f"measured here: {duration(answer.measured_latency_s)} on {', '.join(answer.measured_devices)}")
    elif answer.from_history:
        note("answered from history")
    for text in answer.notes:
        note(text)
