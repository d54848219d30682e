"""Text to token ids and back, for a model folder that holds a ``tokenizer.json``.

The encoding itself is Hugging Face's `tokenizers`; beside its file stands a small one of ours with what it has no place
for: which tokens end an answer, and the chat template.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import tokenizers

from trisect.runtime.errors import InvalidInput, InvalidModel, StorageFailed

from .chat_template import render_chat

TOKENIZER_FILE = "tokenizer.json"
PROMPTING_FILE = "prompting.json"
_KEPT_IDS = 16


@dataclass(frozen=True)
class Prompting:
    """What a prompt needs to know of a model beside its vocabulary."""

    eos_ids: tuple[int, ...]
    """Tokens that end an answer."""
    bos_id: int | None = None
    chat_template: str | None = None
    """Jinja source; None = the file brought none."""


class Tokenizer:
    """The tokenizer of one model; may be used from several threads.

    Parameters
    ----------
    document : str
        Content of a ``tokenizer.json``.
    prompting : Prompting

    Raises
    ------
    InvalidModel
        Where the document cannot be used, or `prompting` names tokens that it does not have.
    """

    def __init__(self, document: str, prompting: Prompting) -> None:
        try:
            self._encoder = tokenizers.Tokenizer.from_str(document)
        except Exception as error:  # the binding raises bare Exception
            raise InvalidModel(f"{TOKENIZER_FILE} cannot be used: {error}", remedy="import the model again") from error
        self.prompting = prompting
        size = self.vocab_size
        for token in (*prompting.eos_ids, *([] if prompting.bos_id is None else [prompting.bos_id])):
            if not 0 <= token < size:
                raise InvalidModel(f"token {token} is not in a vocabulary of {size}", remedy="import the model again")
        # Whether markup such as <|im_end|> is read as one token is a state of the encoder, not an argument of a call.
        self._lock = threading.Lock()

    @classmethod
    def load(cls, folder: str | Path) -> Tokenizer:
        """Read a tokenizer that `save` wrote.

        Raises
        ------
        InvalidModel
            Where a file is missing or damaged.
        """
        folder = Path(folder)
        try:
            document = (folder / TOKENIZER_FILE).read_text("utf-8")
            prompting = msgspec.json.decode((folder / PROMPTING_FILE).read_bytes(), type=Prompting)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise InvalidModel(f"{folder} holds no usable tokenizer: {reason}", remedy="import it again") from error
        return cls(document, prompting)

    def save(self, folder: str | Path) -> None:
        """Write the two files into a folder that exists.

        Raises
        ------
        StorageFailed
        """
        _write(Path(folder) / TOKENIZER_FILE, self._encoder.to_str().encode())
        _write(Path(folder) / PROMPTING_FILE, msgspec.json.format(msgspec.json.encode(self.prompting)))

    @property
    def vocab_size(self) -> int:
        """Ids are below this."""
        return self._encoder.get_vocab_size(with_added_tokens=True)

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Tokens that end an answer."""
        return self.prompting.eos_ids

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """Token ids of a text.

        Parameters
        ----------
        text : str
        add_special : bool
            Add the tokens that the model expects around every text (most: one at the beginning, or none).
        parse_special : bool
            Read markup such as ``<|im_end|>`` as the token it names; else as the characters that it is made of, which
            is what text of unknown origin needs.

        Raises
        ------
        InvalidInput
            Where the text is not Unicode (a lone surrogate).
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidInput(f"the text has half a character at position {error.start}") from error
        with self._lock:
            self._encoder.encode_special_tokens = not parse_special
            return self._encoder.encode(text, add_special_tokens=add_special).ids

    def encode_chat(self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True) -> list[int]:
        """Token ids of a conversation in the model's chat format.

        Parameters
        ----------
        messages : sequence of mapping
            Each with ``role`` and ``content``.
        add_generation_prompt : bool
            End with the beginning of the assistant's answer.

        Raises
        ------
        InvalidInput
            Where the template refuses the conversation.
        """
        text = self.format_chat(messages, add_generation_prompt=add_generation_prompt)
        bos = self.prompting.bos_id
        ids = self.encode(text, add_special=False)
        # A template may or may not write the first token itself; it must not come twice.
        if bos is not None and ids[:1] != [bos] and self.encode("", add_special=True)[:1] == [bos]:
            return [bos, *ids]
        return ids

    def format_chat(self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True) -> str:
        """The text of a conversation in the model's chat format: see `encode_chat`."""
        bos, eos = self.prompting.bos_id, next(iter(self.eos_ids), None)
        return render_chat(
            self.prompting.chat_template,
            messages,
            bos_token=self._text_of(bos),
            eos_token=self._text_of(eos),
            add_generation_prompt=add_generation_prompt,
        )

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """The text of token ids; bytes that are not UTF-8 become U+FFFD.

        Raises
        ------
        InvalidInput
            Where an id is not in the vocabulary.
        """
        ids = list(ids)
        size = self.vocab_size
        if bad := [token for token in ids if not 0 <= token < size]:
            raise InvalidInput(f"token {bad[0]} is not in a vocabulary of {size}")
        return self._encoder.decode(ids, skip_special_tokens=skip_special)

    def stream(self, *, skip_special: bool = True) -> TokenStream:
        """A decoder for ids that come one by one."""
        return TokenStream(self, skip_special=skip_special)

    def _text_of(self, token: int | None) -> str:
        return "" if token is None else self._encoder.id_to_token(token) or ""


class TokenStream:
    """Turns ids that come one by one into text, never showing half a character.

    The pieces that `push` and `finish` return, joined, are what `Tokenizer.decode` gives for all the ids at once. Each
    step decodes only the last few ids, so that a long answer costs no more a token than a short one.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        # Ids whose text has been shown are kept for a while: some decoders treat a text's first id differently, and
        # each time that they are dropped the rest has to be decoded once more.
        self._ids: list[int] = []
        self._whole = 0
        self._shown = ""

    def push(self, token: int) -> str:
        """The text that this id completes; empty while a character is unfinished.

        Raises
        ------
        InvalidInput
            Where the id is not in the vocabulary.
        """
        self._ids.append(token)
        text = self._decode(self._ids)
        fresh = text[len(self._shown) :]
        if not fresh or fresh.endswith("\ufffd"):
            return ""
        self._shown = text
        if len(self._ids) >= _KEPT_IDS:
            # Only whole characters: the ids that made the text of this very call.
            self._ids = self._ids[self._whole :]
            self._shown = self._decode(self._ids)
        self._whole = len(self._ids)
        return fresh

    def finish(self) -> str:
        """What is left where the ids end within a character."""
        text = self._decode(self._ids)
        fresh, self._shown = text[len(self._shown) :], text
        return fresh

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special=self._skip_special)


def _write(path: Path, content: bytes) -> None:
    aside = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        aside.write_bytes(content)
        os.replace(aside, path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise StorageFailed(f"cannot write {path}: {error.strerror}") from error
