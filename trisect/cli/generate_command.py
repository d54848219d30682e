"""``trisect generate``: text from an LLM, with prefill and decode on the devices that are best at each."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trisect.runtime.errors import InvalidInput

from .output import Debug, Json, duration, note, print_json, print_table, progress_bar, size

if TYPE_CHECKING:
    from trisect.llm.bundle import Bundle
    from trisect.llm.generate import MeasuredRequest

_PROMPT_REMEDY = "give one with --prompt TEXT, or a text file with --prompt-file"


def generate(
    model: Annotated[str, typer.Argument(help="A GGUF file, a model folder, or a Hugging Face id.")],
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", help="What to say to the model; - reads standard input.")
    ] = None,
    prompt_file: Annotated[
        Path | None, typer.Option("--prompt-file", help="Read what to say from a text file.")
    ] = None,
    prefill: Annotated[str, typer.Option("--prefill", help="Device that reads the prompt, or auto.")] = "auto",
    decode: Annotated[str, typer.Option("--decode", help="Device that writes the answer, or auto.")] = "auto",
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Longest answer.")] = 64,
    temperature: Annotated[float, typer.Option("--temperature", min=0.0, help="0 takes the likeliest token.")] = 0.0,
    top_k: Annotated[int, typer.Option("--top-k", min=0, help="Draw among so many; 0 = all.")] = 0,
    top_p: Annotated[float, typer.Option("--top-p", min=0.0, max=1.0, help="Draw within so much probability.")] = 1.0,
    repetition_penalty: Annotated[float, typer.Option("--repetition-penalty", min=0.01, help="1 = none.")] = 1.0,
    seed: Annotated[int, typer.Option("--seed", help="Same seed, same text.")] = 0,
    stop: Annotated[list[str] | None, typer.Option("--stop", help="End at this text; repeatable.")] = None,
    chat: Annotated[
        bool, typer.Option("--chat/--raw", help="Use the model's chat template, or the prompt as is.")
    ] = True,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Computing threads of each engine.")] = None,
    precision: Annotated[str, typer.Option("--precision", help="fast, or float32 for reference numerics.")] = "fast",
    table: Annotated[bool, typer.Option("--table", help="End with a table of each device and pair.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Generate text; tokens appear as they are made."""
    from trisect.llm import generate as language
    from trisect.llm.running.generation import LanguageSession
    from trisect.llm.running.sampling import SamplingOptions

    text = _prompt(prompt, prompt_file)
    sampling = SamplingOptions(repetition_penalty, temperature, top_k, top_p, seed)
    language.check_devices(prefill, decode)
    with progress_bar("preparing") as report:
        bundle = language.open_bundle(model, precision=precision, progress=report)
        ids = language.prompt_ids(bundle, text, chat=chat)
        choice = language.choose_devices(
            bundle, prefill, decode, prompt_tokens=len(ids), new_tokens=max_new_tokens, threads=threads,
            precision=precision, progress=report,
        )  # fmt: skip
    for line in (*bundle.notes, *choice.notes):
        note(line)
    with LanguageSession(bundle, choice.prefill, choice.decode, threads=threads, precision=precision) as session:
        try:
            result = session.generate(
                ids, max_new_tokens=max_new_tokens, sampling=sampling, stop=tuple(stop or ()),
                on_text=None if json else _stream,
            )  # fmt: skip
        except KeyboardInterrupt:
            if not json:
                sys.stdout.write("\n")  # what was written so far keeps its line
            raise
    if not json:
        sys.stdout.write("\n")
    measured = []
    if table:
        # The chosen pair, and each device alone.
        pairs = [p for at, p in enumerate(choice.predictions) if at == 0 or not p.is_split]
        with progress_bar("comparing") as report:
            measured = language.measure_request(
                bundle, ids, pairs, new_tokens=max_new_tokens, threads=threads, precision=precision, progress=report
            )
    if json:
        document = {
            "text": result.text, "token_ids": result.token_ids, "finish": result.finish, "stats": result.stats,
            "predicted": choice.predictions, "measured": measured,
        }  # fmt: skip
        print_json(document)
        return
    if table and not measured:
        note("no table: both devices were given, and nothing is measured yet to compare them with")
    if measured:
        _print_comparison(measured, bundle, len(ids), max_new_tokens)


def _prompt(prompt: str | None, path: Path | None) -> str:
    if (prompt is None) == (path is None):
        raise InvalidInput("there is no prompt" if prompt is None else "two prompts were given", remedy=_PROMPT_REMEDY)
    if path is not None:
        try:
            return path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise InvalidInput(f"cannot read {path}: {reason}", remedy=_PROMPT_REMEDY) from error
    text = sys.stdin.read() if prompt == "-" else prompt or ""
    if prompt == "-" and not text:
        raise InvalidInput("nothing came on standard input", remedy=_PROMPT_REMEDY)
    return text


def _print_comparison(measured: Sequence[MeasuredRequest], bundle: Bundle, prompt_tokens: int, new_tokens: int) -> None:
    best = min(measured, key=lambda request: request.stats.end_to_end_s)
    rows = []
    for at, request in enumerate(measured):
        stats, predicted = request.stats, request.predicted
        marks = [word for word, holds in (("chosen", at == 0), ("fastest", request is best)) if holds]
        rows.append(
            (
                stats.prefill,
                stats.decode,
                f"{stats.prefill_tok_s:,.0f} ({prompt_tokens / predicted.prefill_s:,.0f})",
                f"{stats.decode_tok_s:,.0f} ({_rate(new_tokens - 1, predicted.decode_s)})",
                f"{size(stats.kv_bytes)}, {duration(stats.kv_s)}" if predicted.is_split else "-",
                f"{duration(stats.end_to_end_s)} ({duration(predicted.end_to_end_s)})",
                ", ".join(marks),
            )
        )
    columns = ["prefill on", "decode on", "prefill tok/s", "decode tok/s", "KV hand-over", "end to end", ""]
    sys.stdout.write("\n")
    print_table(
        columns, rows, title=f"{prompt_tokens} tokens in, {new_tokens} out: measured, warm (predicted in brackets)"
    )
    if measured[0].predicted.is_split:
        note(f"both engines hold the weights ({size(bundle.weights_bytes)} on disk), each in a layout of its own")


def _rate(count: int, time_s: float) -> str:
    return f"{count / time_s:,.0f}" if time_s > 0 else "-"


def _stream(piece: str) -> None:
    sys.stdout.write(piece)
    sys.stdout.flush()
