"""``python -m trisect.bench.acceptance llm-peers``: language models of a gigabyte beside other systems."""

from __future__ import annotations

from typing import Annotated

import typer

from trisect.cli.option_parsing import parse_sizes
from trisect.cli.options import Debug, Json, LanguageModel, Threads
from trisect.cli.output import note, print_json, print_table, progress_bar
from trisect.cli.quantities import duration, size

_PAIRS = "cpu:openvino+cpu:ort,cpu:ort+cpu:ort"


def llm_peers(
    model: LanguageModel,
    pairs: Annotated[
        str, typer.Option("--pairs", metavar="LIST", help="Pairs PREFILL+DECODE of devices, comma-separated.")
    ] = _PAIRS,
    prompt_tokens: Annotated[
        str, typer.Option("--prompt-tokens", metavar="LIST", help="Prompt lengths, comma-separated.")
    ] = "512",
    new_tokens: Annotated[int, typer.Option("--new-tokens", min=2, help="Number of generated tokens.")] = 64,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Number of interleaved runs, after a warm-up.")] = 5,
    cold_rounds: Annotated[int, typer.Option("--cold-rounds", min=0, help="Number of cold starts.")] = 3,
    threads: Threads = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure pairs of devices and the installed peers on one GGUF file, in turns."""
    from ...llm.peer_comparison import compare_with_peers

    chosen = [(prefill, decode) for prefill, _, decode in (pair.partition("+") for pair in pairs.split(","))]
    with progress_bar("measuring") as report:
        result = compare_with_peers(
            model, chosen, prompt_tokens=parse_sizes(prompt_tokens, "--prompt-tokens"), new_tokens=new_tokens,
            rounds=rounds, cold_rounds=cold_rounds, threads=threads, progress=report,
        )  # fmt: skip
    if json:
        print_json(result)
        return
    for line in result.notes:
        note(line)
    rows = [
        (
            run.system,
            str(run.prompt_tokens),
            f"{run.prefill_tok_s:,.0f}",
            f"{run.decode_tok_s:,.1f}",
            f"{run.read_share:.0%}" if run.read_share is not None else "",
            duration(run.end_to_end_s),
            f"{run.spread:.0%}",
            size(run.rss_bytes),
        )
        for run in result.runs
    ]
    columns = ["system", "prompt", "prefill tok/s", "decode tok/s", "of bandwidth", "end to end", "spread", "memory"]
    print_table(columns, rows, title=f"{result.model}, {new_tokens} new tokens")
    if result.cold_starts:
        starts = [(start.system, duration(start.first_token_s)) for start in result.cold_starts]
        print_table(["system", "cold start"], starts, title="from a new process to the first token")
