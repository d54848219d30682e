"""Token ids against llama.cpp's: recorded (`llama_cpp_ids.json` says by which version) and live, where installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.llm.gguf_factory import MERGES, byte_characters, write_tiny_gguf
from tests.llm.llama_cpp import LlamaCpp
from trisect.llm.gguf.gguf_reader import GgufFile
from trisect.llm.gguf.gguf_tokenizer import read_tokenizer
from trisect.llm.gguf.llama_config import read_config
from trisect.llm.running.tokenizer import Tokenizer
from trisect.runtime.errors import InvalidModel, UnsupportedModel

RECORDED = json.loads(Path(__file__).with_name("llama_cpp_ids.json").read_text("utf-8"))
SAMPLES: dict[str, str] = RECORDED["samples"]


def tokenizer_of(path: Path) -> Tokenizer:
    file = GgufFile.open(path)
    return read_tokenizer(file, read_config(file))


def tiny(folder: Path, arch: str = "llama", **changes: Any) -> Tokenizer:
    return tokenizer_of(write_tiny_gguf(folder / "tiny.gguf", arch, **changes))


def crossing(path: Path, pre: str) -> Path:
    """A vocabulary whose merges cross every boundary between words, so that each wrong cut shows in the ids."""
    merges = RECORDED["merges"]
    markup = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<whole>"]
    tokens = [*markup, *byte_characters(), *dict.fromkeys(merge.replace(" ", "") for merge in merges)]
    metadata = {
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.token_type": [3, 3, 3, 4] + [1] * (len(tokens) - 4),
        "tokenizer.ggml.add_bos_token": False,
    }
    return write_tiny_gguf(path, pre=pre, vocab=len(tokens), metadata=metadata)


def pieces(path: Path, prefix: bool) -> Path:
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *RECORDED["pieces"]]
    metadata = {
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * 259 + [-float(i) for i in range(len(RECORDED["pieces"]))],
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * len(RECORDED["pieces"]),
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_space_prefix": prefix,
    }
    return write_tiny_gguf(path, "mistral", vocab=len(tokens), metadata=metadata)


@pytest.fixture(scope="module")
def smollm2(models: Path) -> Path:
    path = models / "SmolLM2-135M-Instruct.Q4_1.gguf"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return path


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return tiny(tmp_path_factory.mktemp("byte-level"))


@pytest.fixture(scope="module")
def sentencepiece(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return tiny(tmp_path_factory.mktemp("sentencepiece"), "mistral")


def test_smollm2_ids_are_llama_cpps(smollm2: Path) -> None:
    tokenizer = tokenizer_of(smollm2)
    for name, ids in RECORDED["smollm2"].items():
        assert tokenizer.encode(SAMPLES[name]) == ids, name
    for name, ids in RECORDED["smollm2_plain"].items():
        assert tokenizer.encode(SAMPLES[name], parse_special=False) == ids, name


@pytest.mark.parametrize("pre", RECORDED["pre"])
def test_words_are_cut_as_llama_cpp_cuts_them(tmp_path: Path, pre: str) -> None:
    tokenizer = tokenizer_of(crossing(tmp_path / "x.gguf", pre))
    for name, ids in RECORDED["pre"][pre].items():
        assert tokenizer.encode(SAMPLES[name]) == ids, name


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece_ids_are_llama_cpps(tmp_path: Path, prefix: bool) -> None:
    tokenizer = tokenizer_of(pieces(tmp_path / "x.gguf", prefix))
    for name, ids in RECORDED["sentencepiece"]["prefix" if prefix else "no_prefix"].items():
        assert tokenizer.encode(SAMPLES[name]) == ids, name


@pytest.mark.parametrize("which", ["smollm2", "llama-bpe", "qwen2", "sentencepiece"])
def test_live_against_llama_cpp(
    tmp_path: Path, which: str, request: pytest.FixtureRequest, llama_cpp: LlamaCpp
) -> None:
    if which == "smollm2":
        path = request.getfixturevalue("smollm2")
    elif which == "sentencepiece":
        path = pieces(tmp_path / "x.gguf", True)
    else:
        path = crossing(tmp_path / "x.gguf", which)
    tokenizer = tokenizer_of(path)
    for special in (True, False):
        expected = llama_cpp.tokenize(path, list(SAMPLES.values()), parse_special=special)
        for (name, text), ids in zip(SAMPLES.items(), expected, strict=True):
            assert tokenizer.encode(text, parse_special=special) == ids, name


def test_digits_in_threes_and_whole_word_tokens(tmp_path: Path) -> None:
    # Without a merge that leads there, "hello" is reached only where a word that is a token is taken whole.
    merges = [merge for merge in MERGES if merge != "he llo"]
    metadata = {"tokenizer.ggml.merges": merges, "tokenizer.ggml.add_bos_token": False}
    tokens = {pre: tiny(tmp_path, pre=pre, metadata=metadata) for pre in ("llama-bpe", "qwen2")}
    assert len(tokens["llama-bpe"].encode("hello")) == 1
    assert len(tokens["qwen2"].encode("hello")) == 2
    assert len(tokens["llama-bpe"].encode("123")) == 1
    assert len(tokens["qwen2"].encode("123")) == 3


def test_first_and_last_tokens(tmp_path: Path) -> None:
    plain = tiny(tmp_path).encode("hello")
    assert tiny(tmp_path, pre="llama-bpe").encode("hello") == [1, *plain]
    both = {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.add_eos_token": True}
    tokenizer = tiny(tmp_path, metadata=both)
    assert tokenizer.encode("hello") == [1, *plain, 2]
    assert tokenizer.encode("") == [1, 2]
    assert tokenizer.encode("hello", add_special=False) == plain
    assert tokenizer.decode(tokenizer.encode("hello")) == "hello"


def test_special_tokens_are_parsed_only_if_requested(byte_level: Tokenizer, sentencepiece: Tokenizer) -> None:
    assert byte_level.encode("<|im_end|>") == [2]
    assert 2 not in byte_level.encode("<|im_end|>", parse_special=False)
    # What the makers of a model defined is no markup: it is whole in either case.
    assert byte_level.encode("<whole>", parse_special=False) == [3]
    assert sentencepiece.encode("a</s>") == [1, *sentencepiece.encode("a", add_special=False), 2]
    assert 2 not in sentencepiece.encode("a</s>", parse_special=False)
    assert 13 not in sentencepiece.encode("<0x0A>", parse_special=False)


def test_bytes_of_unknown_characters(sentencepiece: Tokenizer) -> None:
    ids = sentencepiece.encode("€", add_special=False)
    assert ids[1:] == [3 + byte for byte in "€".encode()]
    assert sentencepiece.decode(ids) == "€"


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=40))
def test_byte_level_round_trip(byte_level: Tokenizer, text: str) -> None:
    ids = byte_level.encode(text, parse_special=False)
    assert byte_level.decode(ids) == text
    stream = byte_level.stream()
    assert "".join([*map(stream.push, ids), stream.finish()]) == text


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=40).filter(lambda text: "\u2581" not in text))
def test_sentencepiece_round_trip(sentencepiece: Tokenizer, text: str) -> None:
    ids = sentencepiece.encode(text, parse_special=False)
    assert sentencepiece.decode(ids) == text
    stream = sentencepiece.stream()
    assert "".join([*map(stream.push, ids), stream.finish()]) == text


def test_saved_and_loaded_is_the_same(tmp_path: Path, sentencepiece: Tokenizer) -> None:
    sentencepiece.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.prompting == sentencepiece.prompting
    for text in SAMPLES.values():
        assert again.encode(text) == sentencepiece.encode(text)


BROKEN = {
    "no merges": {"tokenizer.ggml.merges": None},
    "the merge 'ab'": {"tokenizer.ggml.merges": ["ab"]},
    "the merge 'a '": {"tokenizer.ggml.merges": ["a "]},
    "`zq` out of vocabulary": {"tokenizer.ggml.merges": ["z q"]},
    "appears twice": {"tokenizer.ggml.tokens": ["a"] * 384},
    "do not match": {"tokenizer.ggml.token_type": [1, 2, 3]},
    "names none": {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.bos_token_id": None},
}


@pytest.mark.parametrize("reason", BROKEN)
def test_rejects_inconsistencies(tmp_path: Path, reason: str) -> None:
    with pytest.raises(InvalidModel, match=reason):
        tiny(tmp_path, metadata=BROKEN[reason])


@pytest.mark.parametrize("scores", [None, [0.0, 1.0], [float("nan")] * 384])
def test_rejects_bad_scores(tmp_path: Path, scores: list[float] | None) -> None:
    with pytest.raises(InvalidModel, match="no score"):
        tiny(tmp_path, "mistral", metadata={"tokenizer.ggml.scores": scores})


def test_rejects_unknown_kinds_by_name(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=r"'kimi-k2'; .*smollm"):
        tiny(tmp_path, pre="kimi-k2")
    with pytest.raises(UnsupportedModel, match=r"'bert'; .*gpt2 and llama"):
        tiny(tmp_path, metadata={"tokenizer.ggml.model": "bert"})
