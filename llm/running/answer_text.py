"""The text at both ends of a generation: a prompt made into token ids, and ids made into an answer as they come."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from trisect.runtime.errors import ContextExceeded, InvalidInput

from ..bundle import Bundle
from .tokenizer import Tokenizer


def encode_prompt(tokenizer: Tokenizer, prompt: str, *, chat: bool) -> list[int]:
    """Token ids of a prompt, as one user's turn of a chat or as plain text.

    Raises
    ------
    InvalidInput
        Where there is nothing to answer.
    """
    ids = tokenizer.encode_chat([{"role": "user", "content": prompt}]) if chat else tokenizer.encode(prompt)
    if not prompt or not ids:
        raise InvalidInput("the prompt is empty", remedy="give some text")
    return ids


def check_prompt(bundle: Bundle, ids: Sequence[int]) -> None:
    """Refuse token ids that a model cannot read.

    Raises
    ------
    InvalidInput
        Where there are none, or one is not in the vocabulary.
    ContextExceeded
        Where there are too many.
    """
    if not len(ids):
        raise InvalidInput("the prompt has no tokens", remedy="give some text")
    wrong = next((token for token in ids if not 0 <= token < bundle.vocab), None)
    if wrong is not None:
        raise InvalidInput(
            f"token {wrong} is not in the model's vocabulary of {bundle.vocab}", remedy="use its tokenizer"
        )
    if len(ids) > bundle.context_length:
        message = f"the prompt has {len(ids)} tokens, the model's context {bundle.context_length}"
        raise ContextExceeded(message, remedy="shorten the prompt")


class Answer:
    """The text so far, held back where it may be the beginning of a stop text.

    Parameters
    ----------
    tokenizer : Tokenizer
    stop : str or sequence of str
        Texts that end the answer.
    on_text : callable, optional
        Called with each piece of text that is certain to stay.
    """

    def __init__(
        self, tokenizer: Tokenizer, stop: str | Sequence[str], on_text: Callable[[str], None] | None = None
    ) -> None:
        stop = (stop,) if isinstance(stop, str) else tuple(stop)
        if not all(stop):
            raise InvalidInput("a stop text is empty", remedy="leave it out")
        self.ids: list[int] = []
        self.text = ""
        self._tokenizer = tokenizer
        self._pieces = tokenizer.stream()
        self._stop = stop
        self._longest = max(map(len, stop), default=0)
        self._on_text = on_text
        # Where no one wants the text before the end, it is decoded once, at the end.
        self._in_pieces = on_text is not None or bool(stop)
        self._told = 0
        self._stopped = False

    def push(self, token: int) -> bool:
        """Add a token; True where a stop text is now complete."""
        self.ids.append(token)
        if not self._in_pieces:
            return False
        begin = max(0, len(self.text) - self._longest)
        self.text += self._pieces.push(token)
        found = [at for at in (self.text.find(text, begin) for text in self._stop) if at >= 0]
        if found:
            self.text = self.text[: min(found)]
            self._stopped = True
        self._tell(len(self.text) if self._stopped else len(self.text) - self._undecided())
        return self._stopped

    def finish(self) -> None:
        """Tell what was held back."""
        if not self._in_pieces:
            self.text = self._tokenizer.decode(self.ids)
        elif not self._stopped:
            self.text += self._pieces.finish()
        self._tell(len(self.text))

    def _undecided(self) -> int:
        """Length of the longest end of the text that begins a stop text."""
        return max((n for text in self._stop for n in range(1, len(text)) if self.text.endswith(text[:n])), default=0)

    def _tell(self, until: int) -> None:
        if until > self._told:
            if self._on_text is not None:
                self._on_text(self.text[self._told : until])
            self._told = until
