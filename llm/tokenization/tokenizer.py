"""Converts text to token ids and back, for a model folder with a ``tokenizer.json``.

Encoding is done by Hugging Face's `tokenizers`. A second small file, ``prompting.json``, holds what that format has no
fields for: the end-of-sequence tokens and the chat template. For SentencePiece vocabularies of GGUF files a third one,
``pieces.json``, holds what `SentencePieceEncoder` needs, which is read ten times as fast.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from trisect.runtime.child_process import ChildProcessFailed
from trisect.runtime.errors import InvalidInput, InvalidModel
from trisect.runtime.untrusted_files import DATA_LIMIT_BYTES, MalformedFile, decode_json, read_bytes, read_text

from .chat_template import prepare_rendering, render_chat
from .encoders import Encoder, make_encoder
from .sentencepiece_encoder import Pieces, SentencePieceEncoder

TOKENIZER_FILE = "tokenizer.json"
PROMPTING_FILE = "prompting.json"
PIECES_FILE = "pieces.json"
_MAX_BUFFERED_IDS = 16
_ID_MAX = 2**32 - 1


@dataclass(frozen=True)
class Prompting:
    """How a model is prompted: special tokens and chat template."""

    eos_ids: tuple[int, ...]
    """End-of-sequence tokens."""
    bos_id: int | None = None
    chat_template: str | None = None
    """Jinja source; None for a base model, which continues a text and knows no turns."""


class Tokenizer:
    """The tokenizer of one model; may be used from several threads.

    Parameters
    ----------
    document : str or Encoder
        Content of a ``tokenizer.json``, or the encoder itself.

    Raises
    ------
    InvalidModel
        If the document is malformed, or `prompting` names tokens outside its vocabulary.
    """

    def __init__(self, document: str | Encoder, prompting: Prompting) -> None:
        self._encoder = make_encoder(document) if isinstance(document, str) else document
        self.prompting = prompting
        for token in (*prompting.eos_ids, *([] if prompting.bos_id is None else [prompting.bos_id])):
            if not 0 <= token <= _ID_MAX or self._encoder.text_of(token) is None:
                raise InvalidModel(
                    f"token {token} is not in the vocabulary of {self.vocab_size}", remedy="import the model again"
                )
        self._lock = threading.Lock()

    @classmethod
    def load(cls, folder: str | Path) -> Tokenizer:
        """Read a tokenizer that `save` wrote.

        Raises
        ------
        InvalidModel
            If a file is missing or damaged.
        """
        folder = Path(folder)
        try:
            prompting = decode_json(read_bytes(folder / PROMPTING_FILE), Prompting)
            encoder: Encoder | str
            if (folder / PIECES_FILE).is_file():
                pieces = decode_json(read_bytes(folder / PIECES_FILE, DATA_LIMIT_BYTES), Pieces)
                encoder = SentencePieceEncoder(pieces, lambda: make_encoder(_read_document(folder)))
            else:
                encoder = read_text(folder / TOKENIZER_FILE, DATA_LIMIT_BYTES)
        except (OSError, MalformedFile) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise InvalidModel(f"{folder} holds no usable tokenizer: {reason}", remedy="import it again") from error
        if prompting.chat_template is not None:
            with contextlib.suppress(ChildProcessFailed):  # reported when a template is to be rendered
                prepare_rendering()
        return cls(encoder, prompting)

    def save(self, folder: str | Path) -> None:
        """Write the two files into an existing folder.

        Raises
        ------
        OSError
            If a file cannot be written.
        """
        Path(folder, TOKENIZER_FILE).write_bytes(self._encoder.document().encode())
        if isinstance(self._encoder, SentencePieceEncoder):
            Path(folder, PIECES_FILE).write_bytes(msgspec.json.encode(self._encoder.pieces))
        Path(folder, PROMPTING_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(self.prompting)))

    @property
    def vocab_size(self) -> int:
        """Size of the vocabulary, special tokens included."""
        return self._encoder.vocab_size

    @property
    def knows_turns(self) -> bool:
        """Whether the model has a chat format: it is no base model."""
        return self.prompting.chat_template is not None

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """End-of-sequence tokens."""
        return self.prompting.eos_ids

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """Return the token ids of a text.

        Parameters
        ----------
        add_special : bool
            Add the special tokens that the model expects around every text, such as a BOS token.
        parse_special : bool
            Parse special tokens such as ``<|im_end|>`` in the text; otherwise encode them as plain characters, as
            untrusted text requires.

        Raises
        ------
        InvalidInput
            If the text contains a lone surrogate.
        InvalidModel
            If the tokenizer fails, or takes too long or too much memory.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidInput(f"the text has half a character (a lone surrogate) at position {error.start}") from error
        with self._lock:
            return self._encoder.encode(text, add_special=add_special, parse_special=parse_special)

    def encode_chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Return the token ids of a conversation in the model's chat format.

        Parameters
        ----------
        messages : sequence of mapping
            Each with ``role`` and ``content``.

        Raises
        ------
        InvalidInput, InvalidModel
            See `format_chat`.
        """
        text = self.format_chat(messages)
        bos = self.prompting.bos_id
        ids = self.encode(text, add_special=False)
        # Some templates write the BOS token themselves; it must not occur twice.
        if bos is not None and ids[:1] != [bos] and self.encode("", add_special=True)[:1] == [bos]:
            return [bos, *ids]
        return ids

    def format_chat(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """Return the text of a conversation in the model's chat format, up to the header of the next answer.

        Raises
        ------
        InvalidInput
            If the model has no chat format, or its template rejects the conversation.
        InvalidModel
            If the template is malformed, or takes too long or too much memory.
        """
        if self.prompting.chat_template is None:
            raise InvalidInput("the model has no chat template: it is a base model", remedy="use a plain prompt")
        bos, eos = self.prompting.bos_id, next(iter(self.eos_ids), None)
        return render_chat(
            self.prompting.chat_template,
            messages,
            bos_token=self._text_of(bos),
            eos_token=self._text_of(eos),
        )

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of token ids, without special tokens; bytes that are not UTF-8 become U+FFFD.

        Ids without a token have no text: tables of many models are padded to a round number of rows, and may choose
        such a row.

        Raises
        ------
        InvalidInput
            If an id is no number of a row.
        """
        ids = list(ids)
        if unknown := [token for token in ids if not 0 <= token <= _ID_MAX]:
            raise InvalidInput(f"token {unknown[0]} is not in the vocabulary of {self.vocab_size}")
        with self._lock:
            return self._encoder.decode(ids)

    def stream(self) -> StreamingDetokenizer:
        """Return a decoder for ids that arrive one by one."""
        return StreamingDetokenizer(self)

    def _text_of(self, token: int | None) -> str:
        if token is None:
            return ""
        with self._lock:
            return self._encoder.text_of(token) or ""


def _read_document(folder: Path) -> str:
    try:
        return read_text(folder / TOKENIZER_FILE, DATA_LIMIT_BYTES)
    except (OSError, MalformedFile) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidModel(f"{folder} holds no usable tokenizer: {reason}", remedy="import it again") from error


class StreamingDetokenizer:
    """Decodes ids that arrive one by one, without ever returning half a character.

    The texts that `push` and `finish` return, joined, equal `Tokenizer.decode` of all the ids. Each step decodes only
    the last few ids, so that the cost per token does not grow with the length of the answer.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        # Ids whose text was returned stay buffered for a while: some decoders treat a text's first id differently, and
        # each time that they are dropped the rest has to be decoded once more.
        self._ids: list[int] = []
        self._complete = 0
        self._returned = ""

    def push(self, token: int) -> str:
        """Return the text that this id completes; empty while a character is incomplete.

        Raises
        ------
        InvalidInput
            If the id is no number of a row.
        """
        self._ids.append(token)
        text = self._tokenizer.decode(self._ids)
        new = text[len(self._returned) :]
        if not new or new.endswith("\ufffd"):
            return ""
        self._returned = text
        if len(self._ids) >= _MAX_BUFFERED_IDS:
            # Drop complete characters only: keep the ids that made the text of this very call.
            self._ids = self._ids[self._complete :]
            self._returned = self._tokenizer.decode(self._ids)
        self._complete = len(self._ids)
        return new

    def finish(self) -> str:
        """Return the rest of the text if the ids end within a character."""
        text = self._tokenizer.decode(self._ids)
        new, self._returned = text[len(self._returned) :], text
        return new
