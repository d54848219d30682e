"""A hostile or broken tokenizer.json ends in an error of trisect; a well-known one runs in this process."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from trisect.llm.gguf import gguf_tokenizer
from trisect.llm.tokenization import encoders
from trisect.llm.tokenization.encoders import IsolatedEncoder, LocalEncoder, make_encoder
from trisect.llm.tokenization.plain_tokenizer import is_plain
from trisect.llm.tokenization.split_patterns import LINEAR_PATTERNS
from trisect.runtime.errors import InvalidModel

_WORDS = {"type": "WordLevel", "vocab": {"a": 0, "b": 1}, "unk_token": "a"}
_BASE: dict[str, Any] = {
    "version": "1.0",
    "added_tokens": [],
    "normalizer": None,
    "pre_tokenizer": None,
    "post_processor": None,
    "decoder": None,
    "model": _WORDS,
}
_REPLACE = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10}
_BACKTRACKING = {"type": "Split", "pattern": {"Regex": "^(([a-z ])+.)+[A-Z]([a-z])+$"}, "behavior": "Isolated"}
_PADDING = {
    "strategy": {"Fixed": 1 << 40},
    "direction": "Left",
    "pad_to_multiple_of": None,
    "pad_id": 0,
    "pad_type_id": 0,
    "pad_token": "x",
}
_CUT = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 9}
_HOSTILE = {
    "charsmap": ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "BAAAAP////8="}}, "hi"),
    "pattern": ({"pre_tokenizer": _BACKTRACKING | {"invert": False}}, "a" * 60 + " " + "x" * 60),
    "no unknown token": ({"model": {"type": "Unigram", "unk_id": None, "vocab": [["a", 0.0]]}}, "hi"),
    "padding": ({"padding": _PADDING}, "a"),
    "a stride": ({"truncation": _CUT}, "a" * 100),
    "growth": ({"normalizer": {"type": "Sequence", "normalizers": [_REPLACE] * 12}}, "a"),
    "deep nesting": ({"normalizer": 0}, "a"),
    "a wrong type": ({"model": {"type": "WordLevel", "vocab": [1, 2]}}, "a"),
    "not a tokenizer": ({"model": {"type": "Other", "vocab": {}}}, "a"),
}


@pytest.mark.parametrize(("change", "text"), _HOSTILE.values(), ids=_HOSTILE)
def test_a_hostile_tokenizer_is_an_invalid_model(
    change: dict[str, Any], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoders, "_MEMORY_LIMIT_BYTES", 300 << 20)
    document = json.dumps(_BASE | change)
    if change == {"normalizer": 0}:
        document = document.replace('"normalizer": 0', '"normalizer": ' + "[" * 100_000)
    with pytest.raises(InvalidModel, match=r"tokenizer\.json"):
        make_encoder(document).encode(text, add_special=True, parse_special=False)


def test_a_tokenizer_that_never_ends_is_stopped_and_encodes_the_next_text(monkeypatch: pytest.MonkeyPatch) -> None:
    # Below Oniguruma's own limit at each position, without an end over all of them.
    pattern = {"Regex": "(a+)+b|(a+)+c"}
    encoder = make_encoder(json.dumps(_BASE | {"pre_tokenizer": _BACKTRACKING | {"pattern": pattern, "invert": False}}))
    assert isinstance(encoder, IsolatedEncoder)
    monkeypatch.setattr(encoders, "_CALL_LIMIT_S", 0.5)
    with pytest.raises(InvalidModel, match=r"no reply within|retry-limit"):
        encoder.encode(("a" * 18 + "d") * 100_000, add_special=True, parse_special=False)
    monkeypatch.undo()
    assert encoder.encode("b", add_special=True, parse_special=False) == [1]


def _byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2, "Ġ": 3}, [("a", "b")]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(gguf_tokenizer.split_patterns.LLAMA3), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>"])
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", 4)])
    return tokenizer


def _sentencepiece() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE({"a": 0, "\u2581": 1, "\u2581a": 2}, [("\u2581", "a")], byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return tokenizer


@pytest.mark.parametrize("make", [_byte_level, _sentencepiece])
def test_a_well_known_tokenizer_runs_here_and_gives_what_an_isolated_one_gives(make: Any) -> None:
    document = make().to_str()
    here, there = make_encoder(document), IsolatedEncoder(document)
    assert isinstance(here, LocalEncoder)
    assert here.vocab_size == there.vocab_size
    for text in ("ab a", "", "aab  b"):
        ids = here.encode(text, add_special=True, parse_special=False)
        assert ids == there.encode(text, add_special=True, parse_special=False) == make().encode(text).ids
        assert here.decode(ids) == there.decode(ids) == make().decode(ids)
    assert here.text_of(0) == there.text_of(0) == "a"
    assert here.text_of(99) is there.text_of(99) is None


def test_padding_and_truncation_of_the_file_do_not_change_a_prompt() -> None:
    tokenizer = _sentencepiece()
    tokenizer.enable_padding(length=50)
    tokenizer.enable_truncation(2)
    encoder = make_encoder(tokenizer.to_str())
    expected = _sentencepiece().encode("a a a a").ids
    assert encoder.encode("a a a a", add_special=True, parse_special=False) == expected


def test_all_patterns_of_gguf_files_are_known_to_be_linear() -> None:
    rules = gguf_tokenizer._PRE_TOKENIZERS.values()
    assert {pattern for rule in rules for pattern in rule.patterns} <= LINEAR_PATTERNS


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"type": "WordPiece", "vocab": {"a": 0}, "max_input_chars_per_word": 10**9, "unk_token": "a"}},
        {"model": _WORDS | {"vocab": {"a" * 5000: 0}}},
        {"decoder": {"type": "Sequence", "decoders": [_REPLACE] * 3}},
        {"normalizer": {"type": "Replace", "pattern": {"String": ""}, "content": "aa"}},
        {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}] * 100}},
        {"pre_tokenizer": {"type": "Unheard"}},
        {"added_tokens": [{"id": 7, "content": ""}]},
    ],
)
def test_what_is_not_known_to_be_plain_is_not(change: dict[str, Any]) -> None:
    assert not is_plain(json.dumps(_BASE | change))
