"""``trisect generate``: generate text with a language model, with prefill and decode on the fastest device for each."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trisect.runtime.errors import InvalidInput
from trisect.runtime.untrusted_files import MalformedFile, read_text

from ..numeric_check import check_numbers_first
from ..options import Debug, Json, KvDtypeName, LanguageModel, Seed, Temperature, Threads, TopP
from ..output import has_no_reader, note, print_generated, print_json, print_table, progress_bar
from ..quantities import duration, size
from ..request_summary import loss_summary, named_device, predicted_gain, request_summary

if TYPE_CHECKING:
    from trisect.llm.bundle import Bundle
    from trisect.llm.phases.request_measurement import MeasuredRequest

_PROMPT_MAX = 1 << 24
"""Characters: several times what the context of any model holds."""
_PROMPT_REMEDY = "use either --prompt TEXT or --prompt-file FILE"


def generate(
    model: LanguageModel,
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", metavar="TEXT", help="The prompt; - reads standard input.")
    ] = None,
    prompt_file: Annotated[
        Path | None, typer.Option("--prompt-file", metavar="FILE", help="Read the prompt from a text file.")
    ] = None,
    prefill: Annotated[
        str, typer.Option("--prefill", metavar="DEVICE", help="Device for prefill (the prompt), or auto.")
    ] = "auto",
    decode: Annotated[
        str, typer.Option("--decode", metavar="DEVICE", help="Device for decode (the answer), or auto.")
    ] = "auto",
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", min=1, help="Maximum number of generated tokens.")
    ] = 64,
    temperature: Temperature = 0.0,
    top_k: Annotated[int, typer.Option("--top-k", min=0, help="Sample from the K most likely tokens; 0 = all.")] = 0,
    top_p: TopP = 1.0,
    repetition_penalty: Annotated[
        float, typer.Option("--repetition-penalty", min=0.01, help="Penalty on repeated tokens; 1 = none.")
    ] = 1.0,
    seed: Seed = 0,
    stop: Annotated[
        list[str] | None, typer.Option("--stop", metavar="TEXT", help="Stop at this text; repeatable.")
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat/--raw", help="Apply the model's chat template, or use the prompt unchanged.")
    ] = True,
    threads: Threads = None,
    precision: Annotated[
        str, typer.Option("--precision", metavar="NAME", help="fast, or float32 for reference results.")
    ] = "fast",
    kv_dtype: KvDtypeName = "auto",
    table: Annotated[
        bool,
        typer.Option(
            "--table", help="Measure the devices first, then print a table of the chosen ones and of each alone."
        ),
    ] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Generate text; tokens are printed as they are generated."""
    from trisect.llm.device_abilities import check_wanted
    from trisect.llm.generate import open_bundle
    from trisect.llm.phases.device_choice import choose_devices
    from trisect.llm.phases.quick_choice import choose_at_once
    from trisect.llm.phases.request_measurement import measure_request
    from trisect.llm.running.generation import LanguageSession
    from trisect.llm.running.prompt import tokenise
    from trisect.llm.running.runners.static_loading import FixedShapes
    from trisect.llm.running.sampling import SamplingOptions
    from trisect.llm.tokenization.tokenizer import Tokenizer

    text = _prompt_text(prompt, prompt_file)
    sampling = SamplingOptions(repetition_penalty, temperature, top_k, top_p, seed)
    check_wanted(prefill, decode)
    with progress_bar("preparing") as progress:
        bundle = open_bundle(model, precision=precision, kv_dtype=kv_dtype, progress=progress)
        tokenizer = Tokenizer.load(bundle.folder)
        tokens = tokenise(bundle, tokenizer, text, chat=chat)
        bundle = bundle.for_context(len(tokens.ids) + max_new_tokens)
        request: dict[str, Any] = {
            "prompt_tokens": len(tokens.ids), "new_tokens": max_new_tokens, "threads": threads, "precision": precision,
        }  # fmt: skip
        if table:
            choice = choose_devices(bundle, prefill, decode, **request, progress=progress)
        else:
            choice = choose_at_once(bundle, prefill, decode, **request)
    for line in (*bundle.notes, *choice.notes):
        note(line)
    check_numbers_first(bundle, choice.prefill, choice.decode, precision=precision)
    if chat and not tokenizer.knows_turns:
        note(f"{bundle.name} has no chat template (a base model): it continues the prompt as plain text")
    with progress_bar("loading") as progress:
        session = LanguageSession(
            bundle, choice.prefill, choice.decode, threads=threads, precision=precision, tokenizer=tokenizer,
            fixed=FixedShapes(len(tokens.ids) + max_new_tokens, progress=progress),
        )  # fmt: skip
    with session:
        try:
            result = session.generate(
                tokens, max_new_tokens=max_new_tokens, sampling=sampling, stop=tuple(stop or ()),
                on_text=None if json else _stream,
            )  # fmt: skip
        except KeyboardInterrupt:
            if not json:
                print_generated("\n")  # ends the line of the text so far
            raise
    if not json:
        print_generated("\n")
        for loss in result.losses:
            note(loss_summary(loss))
        gain = predicted_gain(choice.predictions)
        note(request_summary(result.stats) + (f"; {gain}" if gain else ""))
    measured = []
    if table:
        # The chosen pair, and each device alone.
        pairs = [p for at, p in enumerate(choice.predictions) if at == 0 or not p.is_split]
        with progress_bar("comparing") as progress:
            measured = measure_request(
                bundle, tokens.ids, pairs, new_tokens=max_new_tokens, threads=threads, precision=precision,
                progress=progress,
            )  # fmt: skip
    if json:
        document = {
            "text": result.text, "token_ids": result.token_ids, "finish": result.finish, "stats": result.stats,
            "losses": result.losses,
            "predicted": choice.predictions, "measured": measured,
        }  # fmt: skip
        print_json(document)
        return
    if table and not measured:
        note("no table: both devices are set, and no others are measured to compare them with")
    if measured:
        _print_comparison(measured, bundle, len(tokens.ids), max_new_tokens)


def _prompt_text(prompt: str | None, path: Path | None) -> str:
    if (prompt is None) == (path is None):
        raise InvalidInput("no prompt" if prompt is None else "expected one prompt, got two", remedy=_PROMPT_REMEDY)
    if path is not None:
        try:
            return read_text(path)
        except (OSError, MalformedFile) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise InvalidInput(f"cannot read {path}: {reason}", remedy=_PROMPT_REMEDY) from error
    if prompt != "-":
        return prompt or ""
    try:
        text = sys.stdin.read(_PROMPT_MAX + 1) if sys.stdin is not None else ""
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise InvalidInput(f"cannot read standard input: {reason}", remedy=_PROMPT_REMEDY) from error
    if not text:
        raise InvalidInput("no prompt on standard input", remedy=_PROMPT_REMEDY)
    if len(text) > _PROMPT_MAX:
        raise InvalidInput(f"the prompt has more than {_PROMPT_MAX} characters", remedy="shorten it")
    return text


def _print_comparison(measured: Sequence[MeasuredRequest], bundle: Bundle, prompt_tokens: int, new_tokens: int) -> None:
    best = min(measured, key=lambda request: request.stats.end_to_end_s)
    rows = []
    for at, request in enumerate(measured):
        stats, predicted = request.stats, request.predicted
        remarks = [word for word, applies in (("chosen", at == 0), ("fastest", request is best)) if applies]
        rows.append(
            (
                named_device(stats.prefill, stats.prefill_reality),
                named_device(stats.decode, stats.decode_reality),
                f"{stats.prefill_tok_s:,.0f} ({prompt_tokens / predicted.prefill_s:,.0f})",
                f"{stats.decode_tok_s:,.0f} ({_rate(new_tokens - 1, predicted.decode_s)})",
                f"{size(stats.kv_bytes)}, {duration(stats.kv_s)}" if predicted.is_split else "-",
                f"{duration(stats.end_to_end_s)} ({duration(predicted.end_to_end_s)})",
                ", ".join(remarks),
            )
        )
    columns = ["prefill on", "decode on", "prefill tok/s", "decode tok/s", "KV hand-over", "end to end", ""]
    print_generated("\n")
    print_table(
        columns,
        rows,
        title=f"{prompt_tokens} tokens in, {new_tokens} out: measured on warm engines (predicted in brackets)",
    )
    if measured[0].predicted.is_split:
        note(f"both engines have a copy of the weights ({size(bundle.weights_bytes)} on disk), each in its own layout")


def _rate(count: int, time_s: float) -> str:
    return f"{count / time_s:,.0f}" if time_s > 0 else "-"


def _stream(piece: str) -> None:
    print_generated(piece)
    if has_no_reader():
        raise typer.Exit
