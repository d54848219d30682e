"""Decides whether a ``tokenizer.json`` of unknown origin encodes every text in little time and memory.

The format is a small language: regular expressions that backtrack for ever, replacements that double a text a hundred
times, tables of bytes. What is composed of well-known parts in ordinary sizes is plain and runs in this process;
everything else runs in another one (`encoders.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from trisect.runtime.errors import InvalidModel
from trisect.runtime.untrusted_files import MalformedFile, decode_json

from .split_patterns import LINEAR_PATTERNS

_SIZE_MAX = 1 << 20
"""Of the tokens that a text is padded or cut to."""
_PARTS_MAX, _GROWTH_MAX, _AFFIX_MAX = 32, 256, 64
_TOKEN_LENGTH_MAX = 1024
_WORD_LENGTH_MAX = 1000
_GROWTH = {
    "BertNormalizer": 3, "ByteLevel": 4, "NFC": 3, "NFD": 4, "NFKC": 18, "NFKD": 18, "Lowercase": 3,
    **dict.fromkeys(
        (
            "StripAccents", "Strip", "Nmt", "Prepend", "Metaspace", "Digits", "Punctuation", "Whitespace",
            "WhitespaceSplit", "BertPreTokenizer", "UnicodeScripts", "CharDelimiterSplit", "ByteFallback", "Fuse",
            "WordPiece", "BPEDecoder", "CTC", "BertProcessing", "RobertaProcessing",
        ),
        1,
    ),
}  # fmt: skip
"""Part -> how many times longer a text becomes at most."""
_CHILDREN = ("normalizers", "pretokenizers", "processors", "decoders")


class _Model(msgspec.Struct):
    type: str = ""
    vocab: dict[str, int] | list[tuple[str, float]] = {}
    max_input_chars_per_word: int = 100
    continuing_subword_prefix: str | None = None
    end_of_word_suffix: str | None = None


class _Tokenizer(msgspec.Struct):
    model: _Model
    added_tokens: list[dict[str, Any]] = []
    normalizer: dict[str, Any] | None = None
    pre_tokenizer: dict[str, Any] | None = None
    post_processor: dict[str, Any] | None = None
    decoder: dict[str, Any] | None = None
    truncation: dict[str, Any] | None = None
    padding: dict[str, Any] | None = None


def is_plain(document: str) -> bool:
    """Return whether a tokenizer has only parts whose time and memory are in proportion to the text.

    Raises
    ------
    InvalidModel
        When the document is malformed, or pads or cuts texts to an impossible size.
    """
    try:
        file = decode_json(document, _Tokenizer)
    except MalformedFile as error:
        raise InvalidModel(f"tokenizer.json is malformed: {error}", remedy="download the model again") from error
    _check_sizes(file.padding, file.truncation)
    chains = ((file.normalizer, file.pre_tokenizer), (file.post_processor,), (file.decoder,))
    return _is_plain_model(file.model, file.added_tokens) and all(_growth(chain) <= _GROWTH_MAX for chain in chains)


def _check_sizes(padding: dict[str, Any] | None, truncation: dict[str, Any] | None) -> None:
    padding, truncation = padding or {}, truncation or {}
    strategy = padding.get("strategy")
    sizes = [padding.get("pad_to_multiple_of") or 0, truncation.get("max_length", 0), truncation.get("stride", 0)]
    if isinstance(strategy, dict):
        sizes.append(strategy.get("Fixed", 0))
    if not all(isinstance(size, int) and 0 <= size <= _SIZE_MAX for size in sizes) or sizes[1] < sizes[2]:
        raise InvalidModel(
            f"tokenizer.json pads or cuts texts to {max(sizes, key=str)!s:.40} tokens, at most {_SIZE_MAX} are allowed",
            remedy="download the model again",
        )


def _is_plain_model(model: _Model, added_tokens: list[dict[str, Any]]) -> bool:
    texts = [text if isinstance(text, str) else text[0] for text in model.vocab]
    texts += [str(token.get("content", "")) for token in added_tokens]
    affixes = (model.continuing_subword_prefix or "", model.end_of_word_suffix or "")
    return (
        model.type in ("BPE", "Unigram", "WordPiece", "WordLevel")
        and max(map(len, texts), default=0) <= _TOKEN_LENGTH_MAX
        and all(token.get("content") for token in added_tokens)
        and max(map(len, affixes)) <= _AFFIX_MAX
        and 0 <= model.max_input_chars_per_word <= _WORD_LENGTH_MAX
    )


def _growth(steps: Iterable[dict[str, Any] | None]) -> float:
    """Return how many times longer a text becomes at most; infinity for a part that is not known to be plain."""
    total = 1.0
    for number, part in enumerate(part for step in steps for part in _parts(step)):
        total *= _part_growth(part) if number < _PARTS_MAX else float("inf")
        if total > _GROWTH_MAX:
            break
    return total


def _parts(step: Any, depth: int = 0) -> Iterator[dict[str, Any]]:
    if step is None:
        return
    if not isinstance(step, dict) or depth > 8:
        yield {}
        return
    inner = next((step[key] for key in _CHILDREN if key in step), None)
    if step.get("type") == "Sequence" and isinstance(inner, list):
        for part in inner:
            yield from _parts(part, depth + 1)
    else:
        yield step


def _part_growth(part: dict[str, Any]) -> float:
    kind, unknown = part.get("type"), float("inf")
    if kind in ("Replace", "Split"):
        pattern, content = part.get("pattern"), part.get("content", "")
        if not isinstance(pattern, dict) or len(pattern) != 1 or not isinstance(content, str):
            return unknown
        ((form, text),) = pattern.items()
        if not isinstance(text, str) or not text or not (form == "String" or text in LINEAR_PATTERNS):
            return unknown
        return max(1.0, len(content) / (len(text) if form == "String" else 1))
    if kind == "TemplateProcessing":
        pieces = [*_items(part.get("single")), *_items(part.get("pair")), *_items(part.get("special_tokens"))]
        return len(pieces) + 1.0 if len(pieces) <= _AFFIX_MAX and all(len(str(p)) < 2000 for p in pieces) else unknown
    if kind == "Prepend" and len(str(part.get("prepend"))) > _AFFIX_MAX:
        return unknown
    return _GROWTH.get(kind, unknown) if isinstance(kind, str) else unknown


def _items(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
