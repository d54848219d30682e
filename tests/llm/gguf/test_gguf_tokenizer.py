"""Token ids against llama.cpp's: recorded (`llama_cpp_ids.json` says by which version) and live, where installed."""

from __future__ import annotations

import json
from collections.abc import Set
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.llm.gguf_factory import MERGES, TEMPLATE, byte_characters, write_tiny_gguf
from tests.llm.llama_cpp import LlamaCpp
from trisect.llm.gguf.gguf_reader import GgufFile
from trisect.llm.gguf.gguf_tokenizer import read_tokenizer
from trisect.llm.tokenization.tokenizer import Tokenizer
from trisect.runtime.errors import InvalidModel, UnsupportedModel

RECORDED = json.loads(Path(__file__).with_name("llama_cpp_ids.json").read_text("utf-8"))
SAMPLES: dict[str, str] = RECORDED["samples"]


def tokenizer_of(path: Path) -> Tokenizer:
    return read_tokenizer(GgufFile.open(path))


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


APPROXIMATED = {"hindi", "thai", "combining", "arabic", "hebrew", "rare"}
"""Samples with combining marks, which llama.cpp's rules of these pre-tokenizers leave out: ours are their makers'."""
PRE = {
    **dict.fromkeys(("llama-bpe", "dbrx", "qwen2", "refact", "gpt-2", "default", "smollm", "qwen35"), frozenset()),
    **dict.fromkeys(("gpt-4o", "tekken"), APPROXIMATED),
    "deepseek-v3": frozenset(),
}


def assert_equal_ids(llama_cpp: LlamaCpp, path: Path, *, leave_out: Set[str] = frozenset()) -> None:
    tokenizer = tokenizer_of(path)
    samples = {name: text for name, text in SAMPLES.items() if name not in leave_out}
    for special in (True, False):
        expected = llama_cpp.tokenize(path, list(samples.values()), parse_special=special)
        for (name, text), ids in zip(samples.items(), expected, strict=True):
            assert tokenizer.encode(text, parse_special=special) == ids, name


@pytest.mark.parametrize("pre", PRE)
def test_ids_of_each_pre_tokenizer_are_llama_cpps(tmp_path: Path, llama_cpp: LlamaCpp, pre: str) -> None:
    assert_equal_ids(llama_cpp, crossing(tmp_path / "x.gguf", pre), leave_out=PRE[pre])


@pytest.mark.parametrize("prefix", [True, False])
def test_ids_of_sentencepiece_are_llama_cpps(tmp_path: Path, llama_cpp: LlamaCpp, prefix: bool) -> None:
    assert_equal_ids(llama_cpp, pieces(tmp_path / "x.gguf", prefix))


def test_ids_of_smollm2_are_llama_cpps(smollm2: Path, llama_cpp: LlamaCpp) -> None:
    assert_equal_ids(llama_cpp, smollm2)


def test_ids_of_gemma3_are_llama_cpps(models: Path, llama_cpp: LlamaCpp) -> None:
    path = models / "gemma-3-270m-q4_k_m.gguf"
    if not path.exists():
        pytest.skip(f"{path.name} is not in {models}")
    # llama.cpp takes the HTML tag </s>, a token of this vocabulary, for markup.
    assert_equal_ids(llama_cpp, path, leave_out={"markup"})


def test_special_tokens_of_phi3_remove_the_space_behind_them(tmp_path: Path, llama_cpp: LlamaCpp) -> None:
    texts = ["<|user|>\n hello<|end|>\n<|assistant|>\n", "<|endoftext|>\n hello", "a <|end|>  b"]
    markup = ["<|endoftext|>", "<|user|>", "<|end|>", "<|assistant|>", "</s>", "<unk>", "<s>"]
    tokens = [*markup, *byte_characters(), "he", *(f"[PAD{i}]" for i in range(384 - 257 - len(markup)))]
    metadata = {
        "general.name": "Phi-3 mini",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3] * len(markup) + [1] * (384 - len(markup)),
        "tokenizer.ggml.merges": ["h e"],
        "tokenizer.ggml.bos_token_id": 0,
    }
    path = write_tiny_gguf(tmp_path / "x.gguf", metadata=metadata)
    tokenizer = tokenizer_of(path)
    assert [tokenizer.encode(text) for text in texts] == llama_cpp.tokenize(path, texts)


def test_chat_template_of_the_file_or_of_its_family(tmp_path: Path) -> None:
    assert tiny(tmp_path).prompting.chat_template == TEMPLATE
    without = {"tokenizer.chat_template": None}
    assert not tiny(tmp_path, metadata=without).knows_turns
    tuned = tiny(tmp_path, metadata=without | {"general.finetune": "instruct"})
    assert tuned.format_chat([{"role": "user", "content": "Hi"}]) == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


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


@settings(max_examples=300)
@given(st.text(max_size=40))
def test_byte_level_round_trip(byte_level: Tokenizer, text: str) -> None:
    ids = byte_level.encode(text, parse_special=False)
    assert byte_level.decode(ids) == text
    stream = byte_level.stream()
    assert "".join([*map(stream.push, ids), stream.finish()]) == text


@settings(max_examples=300)
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
