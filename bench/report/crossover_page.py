"""The crossover of a language model's phases as one HTML file: curves, hand-overs, and where a pair of devices pays."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import jinja2
import markupsafe

from trisect.runtime.atomic_write import write_atomically

from ..llm.batch_throughput import BatchPoint
from ..llm.crossover import Crossover
from . import check_installed, plotly_script, script_data


def write_crossover(model: str, crossover: Crossover, path: Path, batches: Sequence[BatchPoint] = ()) -> None:
    """Draw a crossover, and both phases over the size of the batch where that was measured.

    Raises
    ------
    InvalidInput
        Where the plotting library is missing.
    StorageFailed
        Where the file cannot be written.
    """
    check_installed()
    here = files(__package__)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    text = environment.from_string((here / "crossover.html.j2").read_text("utf-8")).render(
        model=model,
        data=script_data({"crossover": crossover, "batches": batches}),
        batches=batches,
        plotly=plotly_script(),
        script=markupsafe.Markup((here / "crossover.js").read_text("utf-8")),
        style=markupsafe.Markup((here / "page.css").read_text("utf-8")),
    )
    write_atomically(path, text.encode())
