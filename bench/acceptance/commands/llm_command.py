"""``python -m trisect.bench.acceptance llm``: the targets for language models."""

from __future__ import annotations

from typing import Annotated

import typer

from trisect.cli.options import Check, Debug, Json, LanguageModel, Threads
from trisect.cli.output import note, print_json, progress_bar

_PROMPT_TOKENS = (16, 128, 1500, 512)


def llm(
    model: LanguageModel,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Number of interleaved runs, after a warm-up.")] = 7,
    threads: Threads = None,
    check: Check = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure as ``trisect bench llm --quality`` does, and hold the result against the targets."""
    from ...llm.answer_quality import bench_quality
    from ...llm.llm_comparison import bench_llm
    from ..llm_targets import llm_target_checks
    from ..target_check import exit_if_missed, print_checks

    with progress_bar("measuring") as report:
        result = bench_llm(model, prompt_tokens=_PROMPT_TOKENS, rounds=rounds, threads=threads, progress=report)
        checks = llm_target_checks(result, bench_quality(model, progress=report))
    if json:
        print_json({"targets": checks})
    else:
        for line in result.notes:
            note(line)
        print_checks(checks)
    exit_if_missed(check, all(target.met for target in checks))
