"""A prompt as token ids, checked against the model once."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from dataclasses import dataclass

from trisect.runtime.errors import ContextExceeded, InvalidInput

from ..bundle import Bundle
from ..tokenization.tokenizer import Tokenizer


@dataclass(frozen=True)
class Prompt:
    """Token ids that the model can read: at least one, all in its vocabulary, no more than its context holds.

    Made by `tokenise`, which checks them.
    """

    ids: tuple[int, ...]


def tokenise(
    bundle: Bundle, tokenizer: Tokenizer, prompt: str | Sequence[int] | Prompt, *, chat: bool = True
) -> Prompt:
    """Return the token ids of a prompt, checked.

    Parameters
    ----------
    tokenizer : Tokenizer
        The bundle's.
    prompt : str or sequence of int or Prompt
        Text; or token ids as they are; or an already tokenised prompt, which is returned unchanged.
    chat : bool
        Format text as one user message of a chat; otherwise, and for a base model, encode it as plain text.

    Raises
    ------
    InvalidInput
        If the prompt is empty, or a token is not in the vocabulary.
    ContextExceeded
        If it has more tokens than the model's context holds.
    """
    if isinstance(prompt, Prompt):
        return prompt
    if isinstance(prompt, str):
        if not prompt:
            raise InvalidInput("the prompt is empty", remedy="give some text")
        as_chat = chat and tokenizer.knows_turns
        ids = tokenizer.encode_chat([{"role": "user", "content": prompt}]) if as_chat else tokenizer.encode(prompt)
    else:
        ids = list(prompt)
    if not ids:
        raise InvalidInput("the prompt has no tokens", remedy="give some text")
    unknown = next((token for token in ids if not _is_row(token, bundle.vocab)), None)
    if unknown is not None:
        raise InvalidInput(
            f"token {unknown!r} is not in the model's vocabulary of {bundle.vocab}", remedy="use its tokenizer"
        )
    if len(ids) > bundle.longest_context:
        message = f"the prompt has {len(ids)} tokens, the model's context {bundle.longest_context}"
        raise ContextExceeded(message, remedy="shorten the prompt")
    return Prompt(tuple(ids))


def _is_row(token: object, rows: int) -> bool:
    return isinstance(token, numbers.Integral) and 0 <= int(token) < rows
