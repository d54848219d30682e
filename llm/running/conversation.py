"""A conversation with a language model: each turn computes only what it adds to the turns before it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from trisect.runtime.errors import ContextExceeded, InvalidInput

from .generation import Generation, LanguageSession
from .prompt import tokenise
from .sampling import SamplingOptions

Message = dict[str, str]
"""With ``role`` (``system``, ``user`` or ``assistant``) and ``content``."""

_ANSWER_SHARE = 4
"""Tokens of an answer may take this part of the context before older messages are left out for it."""
_FREED_SHARE = 4
"""Once messages have to be left out, this part of the room is freed at once: whenever the beginning of a prompt
changes, all of it is computed again."""


class Conversation:
    """The messages so far, and the session that answers them.

    Parameters
    ----------
    session : LanguageSession
        Made with `keeps_cache`, so that the turns before are not computed again.
    system : str
        System prompt; empty = none.
    max_new_tokens : int
        Maximum length of each answer.

    Raises
    ------
    InvalidInput
        If the model is a base model, which knows no turns.
    """

    def __init__(
        self,
        session: LanguageSession,
        *,
        system: str = "",
        max_new_tokens: int = 512,
        sampling: SamplingOptions | None = None,
        stop: Sequence[str] = (),
    ) -> None:
        if not session.tokenizer.knows_turns:
            raise InvalidInput(
                f"{session.bundle.name} has no chat template: it is a base model, which continues a text",
                remedy="use trisect generate, or a model that is tuned for chats",
            )
        self.messages: list[Message] = []
        """Messages of the user and the assistant, the oldest first."""
        self.left_out = 0
        """Number of messages, the oldest ones, that no longer fit into the context: they stay left out."""
        self.system = system
        self._session = session
        self._max_new_tokens = max_new_tokens
        self._sampling = sampling
        self._stop = stop

    def ask(
        self,
        text: str,
        *,
        on_text: Callable[[str], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> Generation:
        """Answer a message, and add both to the conversation, unless it is stopped before the answer begins.

        Raises
        ------
        ContextExceeded
            If the message alone does not fit into the context of the model and its devices.
        InvalidInput
            If the chat template rejects the conversation.
        """
        if not text.strip():
            raise InvalidInput("the message is empty", remedy="write some text")
        messages = [*self.messages, {"role": "user", "content": text}]
        ids, left_out = self._fitting_ids(messages)
        answer = self._session.generate(
            tokenise(self._session.bundle, self._session.tokenizer, ids), max_new_tokens=self._max_new_tokens,
            sampling=self._sampling, stop=self._stop, on_text=on_text, should_stop=should_stop,
        )  # fmt: skip
        if not answer.token_ids:
            return answer
        self.left_out = left_out
        self.messages = [*messages, {"role": "assistant", "content": answer.text}]
        return answer

    def reset(self) -> None:
        """Forget all messages; the system prompt stays."""
        self.messages, self.left_out = [], 0

    def _fitting_ids(self, messages: list[Message]) -> tuple[list[int], int]:
        """Return the tokens of the latest messages that leave room for an answer, and the number of those left out."""
        context = self._session.context_length
        limit = context - min(self._max_new_tokens, context // _ANSWER_SHARE)
        wanted = limit
        for first in range(min(self.left_out, len(messages) - 1), len(messages), 2):  # a question with its answer
            ids = self._encode(messages[first:])
            if len(ids) <= (wanted if first < len(messages) - 1 else limit):
                return ids, first
            wanted = limit - limit // _FREED_SHARE
        message = f"the message has {len(ids)} tokens, of which {limit} fit into the context of {context}"
        raise ContextExceeded(message, remedy="shorten it")

    def _encode(self, messages: Sequence[Message]) -> list[int]:
        encode = self._session.tokenizer.encode_chat
        if not self.system:
            return encode(messages)
        try:
            return encode([{"role": "system", "content": self.system}, *messages])
        except InvalidInput:
            # Templates without a system role reject it: the first message takes it along, as in Gemma's template.
            first = {"role": "user", "content": f"{self.system}\n\n{messages[0]['content']}"}
            return encode([first, *messages[1:]])
