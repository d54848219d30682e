"""``trisect generate``: text from an LLM, with prefill and decode on the devices that are best at each."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from trisect.runtime.errors import InvalidInput

from .output import Debug, Json, print_json


def generate(
    model: Annotated[str, typer.Argument(help="A GGUF file, a model folder, or a Hugging Face id.")],
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="What to say to the model; - reads standard input.")],
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
    table: Annotated[bool, typer.Option("--table", help="End with a table of each device and pair.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Generate text; tokens appear as they are made."""
    from trisect import api

    text = sys.stdin.read() if prompt == "-" else prompt
    if prompt == "-" and not text:
        raise InvalidInput("nothing came on standard input", remedy="give a prompt with --prompt TEXT")
    try:
        result = api.generate(
            model,
            text,
            prefill=prefill,
            decode=decode,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
            stop=tuple(stop or ()),
            chat=chat,
            on_text=None if json else _stream,
        )
    except KeyboardInterrupt:
        if not json:
            sys.stdout.write("\n")  # what was written so far keeps its line
        raise
    if json:
        print_json({"text": result.text, "token_ids": result.token_ids, "stats": result.stats})
        return
    sys.stdout.write("\n")


def _stream(piece: str) -> None:
    sys.stdout.write(piece)
    sys.stdout.flush()
