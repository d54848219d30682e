"""Encodes text with a SentencePiece BPE vocabulary: pieces with priorities, from a compact file that is read at once.

Hugging Face's `tokenizers` needs the merges spelled out, half a million of them for Gemma's 262,144 pieces, and takes a
second to read them. A pair of pieces merges exactly if together they are a piece, so the pieces' order is enough. Ids
are the same as those of `tokenizers` (Apache-2.0; its ``models/bpe`` and ``added_vocabulary.rs``), which still encodes
texts too long for Python.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence

import msgspec

from trisect.runtime.errors import InvalidModel

from .encoders import Encoder

LONG_TEXT_CHARACTERS = 1 << 14
"""Length from which `tokenizers` is faster, reading its file included: Python merges 50,000 characters in 0.1 s."""
_PIECE_LENGTH_MAX = 1024
_SPACE = "\u2581"


class Pieces(msgspec.Struct, frozen=True, kw_only=True):
    """A vocabulary of pieces."""

    texts: list[str]
    """Text of each token."""
    order: list[int]
    """Tokens that others merge to or are merged to, those of the best score first."""
    special: list[int] = []
    """Tokens that are matched in a text before anything else, and left out of decoded text."""
    ordinary: list[int] = []
    """Tokens that are matched in a text before anything else, and are text."""
    unknown: int | None = None
    """The token of characters that are neither pieces nor bytes."""
    adds_space: bool = True
    """Whether a space is written before each text."""
    before: list[int] = []
    """Tokens before every text, such as BOS."""
    after: list[int] = []
    """Tokens behind every text."""


class SentencePieceEncoder:
    """An encoder in this process.

    Parameters
    ----------
    pieces : Pieces
    library : callable
        Returns the encoder of `tokenizers` with the same vocabulary; called when it is needed.

    Raises
    ------
    InvalidModel
        If the pieces refer to tokens that are not there, or a text is there twice.
    """

    def __init__(self, pieces: Pieces, library: Callable[[], Encoder]) -> None:
        self.pieces = pieces
        self._make_library = library
        self._library: Encoder | None = None
        texts = pieces.texts
        unknown = [] if pieces.unknown is None else [pieces.unknown]
        named = [*pieces.order, *pieces.special, *pieces.ordinary, *pieces.before, *pieces.after, *unknown]
        self._ids = dict(zip(texts, range(len(texts)), strict=True))
        are_known = not named or 0 <= min(named) <= max(named) < len(texts)
        if not are_known or len(self._ids) != len(texts) or max(map(len, texts), default=0) > _PIECE_LENGTH_MAX:
            raise InvalidModel("the pieces of the tokenizer contradict each other", remedy="import the model again")
        self._priority = dict(zip(pieces.order, range(len(pieces.order)), strict=True))
        self._bytes = [self._ids.get(f"<0x{byte:02X}>") for byte in range(256)]
        self._special = frozenset(pieces.special)
        self._byte_values = {token: byte for byte, token in enumerate(self._bytes) if token is not None}
        # Lengths of the tokens that are matched first, the longest first, by their first character.
        self._matched = {texts[token]: token for token in [*pieces.special, *pieces.ordinary] if texts[token]}
        lengths: dict[str, set[int]] = {}
        for text in self._matched:
            lengths.setdefault(text[0], set()).add(len(text))
        self._lengths = {first: sorted(sizes, reverse=True) for first, sizes in lengths.items()}

    @property
    def vocab_size(self) -> int:
        """Size of the vocabulary, special tokens included."""
        return len(self.pieces.texts)

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Return the token ids of a text."""
        if len(text) >= LONG_TEXT_CHARACTERS:
            return self._long_encoder().encode(text, add_special=add_special, parse_special=parse_special)
        ids = [token for part in self._parts(text, parse_special) for token in self._part_ids(part)]
        return [*self.pieces.before, *ids, *self.pieces.after] if add_special else ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids."""
        texts = self.pieces.texts
        parts: list[str] = []
        pending = bytearray()
        for token in ids:
            if token >= len(texts) or token in self._special:
                continue
            byte = self._byte_values.get(token)
            if byte is not None:
                pending.append(byte)
                continue
            parts.append(_text_of_bytes(pending))
            pending.clear()
            parts.append(texts[token].replace(_SPACE, " "))
        text = "".join([*parts, _text_of_bytes(pending)])
        return text[1:] if self.pieces.adds_space and text.startswith(" ") else text

    def text_of(self, token: int) -> str | None:
        """Return the text of one token."""
        return self.pieces.texts[token] if token < len(self.pieces.texts) else None

    def document(self) -> str:
        """Return the content of a ``tokenizer.json``."""
        return self._long_encoder().document()

    def _long_encoder(self) -> Encoder:
        if self._library is None:
            self._library = self._make_library()
        return self._library

    def _parts(self, text: str, parse_special: bool) -> Iterator[str | int]:
        """Yield the tokens that are matched first, and the texts between them."""
        start = at = 0
        while at < len(text):
            sizes = self._lengths.get(text[at], ())
            token = next((self._matched[part] for n in sizes if (part := text[at : at + n]) in self._matched), None)
            if token is None:
                at += 1
                continue
            end = at + len(self.pieces.texts[token])
            if parse_special or token not in self._special:
                if start < at:
                    yield text[start:at]
                yield token
                start = end
            at = end
        if start < len(text):
            yield text[start:]

    def _part_ids(self, part: str | int) -> list[int]:
        if isinstance(part, int):
            return [part]
        text = part.replace(" ", _SPACE)
        return self._merged(self._symbols(_SPACE + text if self.pieces.adds_space else text))

    def _symbols(self, text: str) -> list[int]:
        """Return the tokens of single characters: pieces, else bytes, else the unknown token for a run of them."""
        symbols: list[int] = []
        was_unknown = False
        for character in text:
            token = self._ids.get(character)
            if token is not None:
                symbols.append(token)
            else:
                tokens = [self._bytes[byte] for byte in character.encode()]
                known = [token for token in tokens if token is not None]
                if len(known) == len(tokens):
                    symbols += known
                elif self.pieces.unknown is not None:
                    if not was_unknown:
                        symbols.append(self.pieces.unknown)
                    was_unknown = True
                    continue
            was_unknown = False
        return symbols

    def _merged(self, symbols: list[int]) -> list[int]:
        """Merge neighbours, those first whose common piece has the best score; at equal scores from the left."""
        texts, ids, priority = self.pieces.texts, self._ids, self._priority
        count = len(symbols)
        after = list(range(1, count + 1))
        before = list(range(-1, count - 1))
        alive = [True] * count
        queue: list[tuple[int, int, int, int]] = []

        def push(left: int, right: int) -> None:
            first, second = symbols[left], symbols[right]
            if first in priority and second in priority:
                token = ids.get(texts[first] + texts[second])
                if token is not None and (rank := priority.get(token)) is not None:
                    heapq.heappush(queue, (rank, len(texts[first]), left, token))

        for left in range(count - 1):
            push(left, left + 1)
        while queue:
            _, length, left, token = heapq.heappop(queue)
            if not alive[left] or (right := after[left]) >= count:
                continue
            first = texts[symbols[left]]
            if len(first) != length or first + texts[symbols[right]] != texts[token]:
                continue  # one of the two has become part of another piece meanwhile
            symbols[left] = token
            alive[right] = False
            following = after[left] = after[right]
            if following < count:
                before[following] = left
                push(left, following)
            if before[left] >= 0:
                push(before[left], left)
        return [token for token, lives in zip(symbols, alive, strict=True) if lives]


def _text_of_bytes(data: bytearray) -> str:
    """Return the text of bytes; one U+FFFD for each of them if they are no UTF-8."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "\ufffd" * len(data)
