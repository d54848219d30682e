"""The tokenizer of a saved model: streaming, special tokens, damaged folders."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors

from trisect.llm.tokenization.tokenizer import Prompting, Tokenizer
from trisect.runtime.errors import InvalidInput, InvalidModel

BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())


def document(*, bos: bool = False) -> str:
    """Byte-level, no merges: one token a byte, 3 tokens of markup before them."""
    markup = ["<s>", "</s>", "<|im_end|>"]
    encoder = tokenizers.Tokenizer(models.BPE({text: i for i, text in enumerate([*markup, *BYTES])}, []))
    encoder.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    encoder.decoder = decoders.ByteLevel()
    encoder.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in markup])
    if bos:
        encoder.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return encoder.to_str()


def make(*, bos: bool = False, template: str | None = None) -> Tokenizer:
    return Tokenizer(document(bos=bos), Prompting(eos_ids=(1, 2), bos_id=0, chat_template=template))


def test_streams_complete_characters_only() -> None:
    tokenizer = make()
    stream = tokenizer.stream()
    shown = [stream.push(token) for token in tokenizer.encode("aé世🎉")]
    assert shown == ["a", "", "é", "", "", "世", "", "", "", "🎉"]
    assert stream.finish() == ""


def test_streams_the_rest_at_the_end() -> None:
    tokenizer = make()
    stream = tokenizer.stream()
    ids = tokenizer.encode("a世")[:-1]
    assert [stream.push(token) for token in ids] == ["a", "", ""]
    assert stream.finish() == tokenizer.decode(ids)[1:] != ""
    assert stream.finish() == ""


@given(st.lists(st.integers(0, 258), max_size=60))
def test_streamed_and_decoded_are_the_same(ids: list[int]) -> None:
    stream = TOKENIZER.stream()
    text = "".join([*map(stream.push, ids), stream.finish()])
    assert text == TOKENIZER.decode(ids)


TOKENIZER = make()


def test_special_tokens_are_not_part_of_the_text() -> None:
    ids = TOKENIZER.encode("a<|im_end|>b")
    assert ids[1] == 2
    assert TOKENIZER.decode(ids) == "ab"
    stream = TOKENIZER.stream()
    assert [stream.push(token) for token in ids] == ["a", "", "b"]


def test_threads_do_not_mix_up_the_reading_of_markup() -> None:
    wrong: list[list[int]] = []

    def work(special: bool) -> None:
        for _ in range(200):
            ids = TOKENIZER.encode("<|im_end|>", parse_special=special)
            if (ids == [2]) != special:
                wrong.append(ids)

    threads = [threading.Thread(target=work, args=(i % 2 == 0,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_chat_adds_the_first_token_once() -> None:
    messages = [{"role": "user", "content": "x"}]
    text = TOKENIZER.encode("x", add_special=False)
    own = "{{ bos_token }}{{ messages[0].content }}"
    none = "{{ messages[0].content }}"
    assert make(bos=True, template=own).encode_chat(messages) == [0, *text]
    assert make(bos=True, template=none).encode_chat(messages) == [0, *text]
    assert make(bos=False, template=none).encode_chat(messages) == text


def test_rejects_bad_input() -> None:
    with pytest.raises(InvalidInput, match="position 1"):
        TOKENIZER.encode("a\ud800b")
    for bad in (-1, 2**40):
        with pytest.raises(InvalidInput, match="not in the vocabulary of 259"):
            TOKENIZER.decode([bad])


def test_rows_beyond_the_vocabulary_have_no_text() -> None:
    ids = TOKENIZER.encode("two", add_special=False)
    padded = [259, *ids[:1], 300, *ids[1:], 2**31]
    assert TOKENIZER.decode(padded) == "two"
    decoder = TOKENIZER.stream()
    assert "".join(decoder.push(token) for token in padded) + decoder.finish() == "two"


def test_saved_and_loaded(tmp_path: Path) -> None:
    make(bos=True, template="{{ messages }}").save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["prompting.json", "tokenizer.json"]
    again = Tokenizer.load(tmp_path)
    assert again.prompting == Prompting((1, 2), 0, "{{ messages }}")
    assert again.encode("é") == make(bos=True).encode("é")


def test_rejects_folders_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match="no usable tokenizer"):
        Tokenizer.load(tmp_path / "none")
    for name, content in [
        ("prompting.json", "{"),
        ("prompting.json", '{"eos_ids": ["x"]}'),
        ("prompting.json", '{"eos_ids": [259]}'),
        ("prompting.json", '{"eos_ids": [], "bos_id": -1}'),
        ("tokenizer.json", ""),
        ("tokenizer.json", "[]"),
        ("tokenizer.json", json.dumps({"model": {"type": "Evil"}})),
        ("tokenizer.json", document()[:-50]),
    ]:
        make().save(tmp_path)
        (tmp_path / name).write_text(content)
        with pytest.raises(InvalidModel):
            Tokenizer.load(tmp_path)
    make().save(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidModel):
        Tokenizer.load(tmp_path)


def test_saving_into_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        make().save(tmp_path / "none")
