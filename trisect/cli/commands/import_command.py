"""``trisect import``: convert a language model to a folder that trisect runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..options import Debug, Json, LanguageModel
from ..output import note, print_json, progress_bar
from ..quantities import size


def import_model(
    model: LanguageModel,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Folder to write.")],
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Import a language model: its graphs, weights, tokenizer and chat template, into one folder."""
    from trisect.llm.importing.model_import import open_model

    with progress_bar("importing") as report:
        bundle = open_model(model, folder=out, progress=report)
    if json:
        print_json(bundle)
        return
    for text in bundle.notes:
        note(f"note: {text}")
    note(f"imported {bundle.name} to {bundle.folder}: {bundle.layers} layers, {size(bundle.weights_bytes)} of weights")
