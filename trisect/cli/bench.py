"""``trisect bench``: comparisons on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from .output import Debug, Json, duration, note, print_json, print_table, progress_bar, size

app = typer.Typer(help="Compare strategies, devices and other systems on this machine.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Compare strategies, devices and other systems on this machine."""


@app.command()
def llm(
    model: Annotated[str, typer.Argument(help="A GGUF file, a model folder, or a Hugging Face id.")],
    prompt_tokens: Annotated[int, typer.Option("--prompt-tokens", min=1, help="Length of the prompt.")] = 512,
    new_tokens: Annotated[int, typer.Option("--new-tokens", min=1, help="Length of the answer.")] = 64,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure every device and pair of devices at prefill and decode, and the peers that are installed."""
    from trisect.bench.llm import bench_llm

    with progress_bar("measuring") as report:
        result = bench_llm(model, prompt_tokens=prompt_tokens, new_tokens=new_tokens, progress=report)
    if json:
        print_json(result)
        return
    rows = [
        (
            run.peer or "trisect",
            run.prefill,
            run.decode,
            f"{run.prefill_tok_s:,.0f} tok/s",
            f"{run.decode_tok_s:,.0f} tok/s",
            size(run.kv_bytes),
            duration(run.kv_s),
            duration(run.end_to_end_s),
        )
        for run in result.runs
    ]
    columns = ["system", "prefill on", "decode on", "prefill", "decode", "KV cache", "hand-over", "end to end"]
    print_table(
        columns, rows, title=f"{prompt_tokens} tokens in, {new_tokens} out; medians of interleaved runs, measured"
    )
    note(f"best pair {result.ratio:.2f} times as fast as the best single device")
