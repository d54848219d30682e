"""The crossover of a language model's phases as one HTML file: speed curves, KV cache transfers, speed-ups of pairs."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import jinja2
import markupsafe

from trisect.runtime.atomic_write import write_atomically

from ..llm.batch_throughput import BatchPoint
from ..llm.crossover import Crossover
from . import check_installed, plotly_script, printable_value, script_data


def write_crossover(model: str, crossover: Crossover, path: Path, batches: Sequence[BatchPoint] = ()) -> None:
    """Write the page of a crossover, with both phases by batch size where they were measured.

    Raises
    ------
    InvalidInput
        Where the plotting library is missing.
    StorageFailed
        Where the file cannot be written.
    """
    check_installed()
    templates = files(__package__)
    environment = jinja2.Environment(autoescape=True, finalize=printable_value, undefined=jinja2.StrictUndefined)
    text = environment.from_string((templates / "crossover.html.j2").read_text("utf-8")).render(
        model=model,
        data=script_data({"crossover": crossover, "batches": batches}),
        batches=batches,
        plotly=plotly_script(),
        script=markupsafe.Markup((templates / "crossover.js").read_text("utf-8")),
        style=markupsafe.Markup((templates / "page.css").read_text("utf-8")),
    )
    write_atomically(path, text.encode(errors="backslashreplace"))
