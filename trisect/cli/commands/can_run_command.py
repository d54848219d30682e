"""``trisect can-run``: whether this machine can run a model, before it is downloaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ..option_parsing import parse_shapes
from ..options import Debug, Devices, Json, Machine, Shapes
from ..output import note, print_json, print_table, progress_bar
from ..plan_tables import INTERVAL
from ..quantities import duration, interval_text, size

if TYPE_CHECKING:
    from trisect.runtime.errors import TrisectError

    from ...context.model_support import ModelSupport

_MAX_REASONS = 2


def can_run(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL",
            help="An ONNX file (with or without weights), a GGUF file (or its first megabytes), a TFLite file, a "
            "language model's folder or config.json, or a model's name on a hub. Of several, the best one is selected.",
        ),
    ],
    devices: Devices = "auto",
    machine: Machine = None,
    shape: Shapes = None,
    file: Annotated[
        list[str] | None,
        typer.Option("--file", metavar="NAME", help="Name of a file in the model's hub repository; repeatable."),
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", metavar="NAME", help="A tag of the model on the hub; repeatable.")
    ] = None,
    context: Annotated[
        int,
        typer.Option("--context", metavar="N", min=1, help="Tokens of prompt and answer of a language model."),
    ] = 1024,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Check whether, on which devices and how fast a model would run. Exit 1 if it would not.

    A model can be checked before it is downloaded: the metadata, or a part of its files, is enough.
    """
    from trisect.runtime.errors import InvalidInput

    from ...context import can_run as assessment

    if (file or tag) and len(sources) > 1:
        raise InvalidInput("--file and --tag describe one model", remedy="check the models one by one")
    source = {"name": sources[0], "files": file or [], "tags": tag or []} if file or tag else sources[0]
    with progress_bar("checking") as report:
        if len(sources) > 1:
            best, answers = assessment.best_of(sources, devices, machine=machine, context_tokens=context)
        else:
            shapes = parse_shapes(shape or [])
            answer = assessment.can_run(
                source, devices, machine=machine, shapes=shapes, context_tokens=context, progress=report
            )
            best, answers = 0, [answer]
    if json:
        documents = [_document(name, one) for name, one in zip(sources, answers, strict=True)]
        print_json({"best": sources[best], "candidates": documents} if len(documents) > 1 else documents[0])
    else:
        for name, one in zip(sources, answers, strict=True):
            _show(name, one)
        if len(sources) > 1:
            note(f"best: {sources[best]}")
    selected = answers[best]
    if isinstance(selected, Exception) or selected.ability == "no":
        raise typer.Exit(1)


def _document(source: str, answer: ModelSupport | TrisectError) -> object:
    return {"name": source, "error": str(answer)} if isinstance(answer, Exception) else answer


def _show(source: str, answer: ModelSupport | TrisectError) -> None:
    if isinstance(answer, Exception):
        note(f"{source}: {answer}")
        return
    rows = [
        (
            support.device,
            support.ability,
            duration(support.latency_s),
            interval_text(support.latency_interval_s, support.latency_s),
            f"{support.prefill_tok_s:,.0f} tok/s" if support.prefill_tok_s else "-",
            f"{support.decode_tok_s:,.0f} tok/s" if support.decode_tok_s else "-",
            size(support.memory.total_bytes) if support.memory else "-",
            f"{support.max_context_tokens:,} tokens" if support.max_context_tokens is not None else "-",
            "; ".join(support.reasons[:_MAX_REASONS]) or "-",
        )
        for support in answer.devices.values()
    ]
    title = f"{answer.name} ({answer.kind}): {answer.ability}, confidence {answer.confidence}"
    if answer.context_tokens is not None:
        title += f", context of {answer.context_tokens:,} tokens"
    elif answer.memory_bytes is not None:
        title += f", {size(answer.memory_bytes)} of memory"
    is_language_model = answer.context_tokens is not None
    of_language_models = ["max. prefill", "max. decode", "memory", "max. context"]
    columns = ["device", "can run", "predicted latency", INTERVAL, *of_language_models, "reason"]
    unused = ["predicted latency", INTERVAL] if is_language_model else [INTERVAL, *of_language_models]
    print_table(columns, rows, title=title, optional=unused)
    if answer.measured_latency_s is not None:
        note(f"measured: {duration(answer.measured_latency_s)} on {', '.join(answer.measured_devices)}")
    elif answer.from_history:
        note("answered from the history")
    for text in answer.notes:
        note(text)
