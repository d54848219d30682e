"""Hugging Face's `tokenizers` for one ``tokenizer.json``: in this process, or in one with limits if it is not plain."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import msgspec
import tokenizers

from trisect.runtime.child_process import ChildProcess, ChildProcessFailed, Handler
from trisect.runtime.errors import InvalidModel, one_line

from .plain_tokenizer import is_plain

_LOAD_LIMIT_S, _CALL_LIMIT_S = 60.0, 10.0
_MEMORY_LIMIT_BYTES = 2 << 30
_FILE = "tokenizer.json"
_REMEDY = "download or import the model again"

_Result = TypeVar("_Result")


class Encoder(Protocol):
    """Converts between text and token ids."""

    @property
    def vocab_size(self) -> int:
        """Size of the vocabulary, special tokens included."""

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Return the token ids of a text; see `Tokenizer.encode`."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, all in the vocabulary, without special tokens."""

    def text_of(self, token: int) -> str | None:
        """Return the text of one token."""

    def document(self) -> str:
        """Return the content of a ``tokenizer.json``."""


def make_encoder(document: str) -> Encoder:
    """Return the encoder of a ``tokenizer.json``.

    Raises
    ------
    InvalidModel
        When the document is malformed.
    """
    return LocalEncoder.parse(document) if is_plain(document) else IsolatedEncoder(document)


class LocalEncoder:
    """An encoder in this process; used by one thread at a time.

    Raises
    ------
    InvalidModel
        When the document is malformed; so do all methods when the tokenizer fails.
    """

    def __init__(self, encoder: tokenizers.Tokenizer) -> None:
        self._encoder = encoder
        # The sizes that a file states are those of its makers' training.
        self._encoder.no_padding()
        self._encoder.no_truncation()

    @classmethod
    def parse(cls, document: str) -> LocalEncoder:
        """Return the encoder of a ``tokenizer.json``."""
        return cls(_guarded(lambda: tokenizers.Tokenizer.from_str(document), "is malformed"))

    @property
    def vocab_size(self) -> int:
        """Size of the vocabulary, special tokens included."""
        return self._encoder.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Return the token ids of a text."""
        # Whether <|im_end|> is parsed as a special token is a state of the encoder, not an argument of a call.
        self._encoder.encode_special_tokens = not parse_special
        return _guarded(
            lambda: self._encoder.encode(text, add_special_tokens=add_special).ids, "cannot encode the text"
        )

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids."""
        return _guarded(lambda: self._encoder.decode(ids, skip_special_tokens=True), "cannot decode the tokens")

    def text_of(self, token: int) -> str | None:
        """Return the text of one token."""
        return self._encoder.id_to_token(token)

    def document(self) -> str:
        """Return the content of a ``tokenizer.json``."""
        return self._encoder.to_str()


class IsolatedEncoder:
    """An encoder in a process of its own, which is stopped when it takes too long or too much memory.

    Raises
    ------
    InvalidModel
        When the document is malformed; so do all methods when the tokenizer fails or exceeds a limit.
    """

    def __init__(self, document: str) -> None:
        self._document = document
        self._process: ChildProcess | None = None
        self._size = 0
        self._request("vocab_size")

    @property
    def vocab_size(self) -> int:
        """Size of the vocabulary, special tokens included."""
        return self._size

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Return the token ids of a text."""
        ids: list[int] = self._request("encode", text, add_special, parse_special)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids."""
        return str(self._request("decode", list(ids)))

    def text_of(self, token: int) -> str | None:
        """Return the text of one token."""
        text: str | None = self._request("text_of", token)
        return text

    def document(self) -> str:
        """Return the content of a ``tokenizer.json``."""
        return self._document

    def _request(self, method: str, *arguments: Any) -> Any:
        try:
            if self._process is None or self._process.has_ended:
                process = ChildProcess(_encoder_handler, "the tokenizer", memory_limit_bytes=_MEMORY_LIMIT_BYTES)
                weakref.finalize(self, process.close)
                self._size = process.request(_Request("load", [self._document]), time_limit_s=_LOAD_LIMIT_S)
                self._process = process
            return self._process.request(_Request(method, list(arguments)), time_limit_s=_CALL_LIMIT_S)
        except ChildProcessFailed as error:
            reason = error.reason.removesuffix(f"; {_REMEDY}")
            what = "" if reason.startswith(_FILE) else f"{_FILE} cannot be used: "
            raise InvalidModel(f"{what}{reason}", remedy=_REMEDY) from error


class _Request(msgspec.Struct):
    method: str
    arguments: list[Any]


def _encoder_handler() -> Handler:
    encoders: list[LocalEncoder] = []

    def answer(document: Any) -> Any:
        request = msgspec.convert(document, _Request)
        match request.method:
            case "load":
                encoders[:] = [LocalEncoder.parse(*request.arguments)]
                return encoders[0].vocab_size
            case "encode":
                text, add_special, parse_special = request.arguments
                return encoders[0].encode(text, add_special=add_special, parse_special=parse_special)
            case "vocab_size":
                return encoders[0].vocab_size
            case _:
                return getattr(encoders[0], request.method)(*request.arguments)

    return answer


def _guarded(call: Callable[[], _Result], what: str) -> _Result:
    try:
        return call()
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # the binding raises bare Exception, and BaseException where Rust panics
        raise InvalidModel(f"{_FILE} {what}: {one_line(error, 200)}", remedy=_REMEDY) from error
