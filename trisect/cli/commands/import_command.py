"""``trisect import``: convert a language model to a folder that trisect runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ..options import Debug, Json, LanguageModel
from ..output import note, print_json, print_table, progress_bar
from ..quantities import size


def import_model(
    model: LanguageModel,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Folder to write.")],
    prefer: Annotated[
        Literal["speed", "exact"],
        typer.Option("--prefer", help="speed: round weights slightly where that is faster; exact: never."),
    ] = "speed",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Import a language model: its graphs, weights, tokenizer and chat template, into one folder."""
    from trisect.llm.importing.model_import import open_model

    with progress_bar("importing") as report:
        bundle = open_model(model, prefer=prefer, folder=out, progress=report)
    if json:
        print_json(bundle)
        return
    for text in bundle.notes:
        note(f"note: {text}")
    rows = [
        (form.type, f"{form.weights / 1e6:,.1f} M", form.form, form.phase, _error(form.error)) for form in bundle.forms
    ]
    if rows:
        print_table(["weights", "number", "stored as", "read by", "error"], rows)
    note(f"imported {bundle.name} to {bundle.folder}: {bundle.layers} layers, {size(bundle.weights_bytes)} of weights")


def _error(error: float) -> str:
    """Return an error relative to the weights' root mean square in words."""
    return f"{error:.2%} of rms" if error else "exact"
