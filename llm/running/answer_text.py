"""The text of an answer, decoded token by token and ended by stop sequences."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from trisect.runtime.errors import InvalidInput

from ..tokenization.tokenizer import Tokenizer


class AnswerText:
    """The text so far; the part that may be the beginning of a stop sequence is withheld.

    Parameters
    ----------
    stop : str or sequence of str
        Stop sequences: texts that end the answer and are not part of it.
    on_text : callable, optional
        Called with each piece of text as soon as it is final.

    Raises
    ------
    InvalidInput
        If a stop sequence is empty.
    """

    def __init__(
        self, tokenizer: Tokenizer, stop: str | Sequence[str], on_text: Callable[[str], None] | None = None
    ) -> None:
        stop = (stop,) if isinstance(stop, str) else tuple(stop)
        if not all(stop):
            raise InvalidInput("a stop sequence is empty", remedy="leave it out")
        self.ids: list[int] = []
        self.text = ""
        self._tokenizer = tokenizer
        self._decoder = tokenizer.stream()
        self._stop = stop
        self._max_stop_length = max(map(len, stop), default=0)
        self._on_text = on_text
        # If the text is not needed before the end, it is decoded once, at the end.
        self._incremental = on_text is not None or bool(stop)
        self._emitted = 0
        self._stopped = False

    def push(self, token: int) -> bool:
        """Add a token; return True if a stop sequence is now complete."""
        self.ids.append(token)
        if not self._incremental:
            return False
        begin = max(0, len(self.text) - self._max_stop_length)
        self.text += self._decoder.push(token)
        positions = [at for at in (self.text.find(text, begin) for text in self._stop) if at >= 0]
        if positions:
            self.text = self.text[: min(positions)]
            self._stopped = True
        self._emit(len(self.text) if self._stopped else len(self.text) - self._withheld_length())
        return self._stopped

    def finish(self) -> None:
        """Emit what was withheld."""
        if not self._incremental:
            self.text = self._tokenizer.decode(self.ids)
        elif not self._stopped:
            self.text += self._decoder.finish()
        self._emit(len(self.text))

    def _withheld_length(self) -> int:
        """Return the length of the longest suffix of the text that is a prefix of a stop sequence."""
        return max((n for text in self._stop for n in range(1, len(text)) if self.text.endswith(text[:n])), default=0)

    def _emit(self, until: int) -> None:
        if until > self._emitted:
            if self._on_text is not None:
                self._on_text(self.text[self._emitted : until])
            self._emitted = until
