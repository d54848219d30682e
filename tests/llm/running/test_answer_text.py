"""The pieces of an answer join to its text, and stop sequences are recognised across tokens."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.llm.tiny_llms import TinyLlms
from trisect.llm.running.answer_text import AnswerText
from trisect.llm.tokenization.tokenizer import Tokenizer
from trisect.runtime.errors import InvalidInput


@pytest.fixture(scope="module")
def tokenizer(tiny_llms: TinyLlms) -> Tokenizer:
    return Tokenizer.load(tiny_llms.get().bundle.folder)


def write(tokenizer: Tokenizer, text: str, stop: str | tuple[str, ...]) -> tuple[str, list[str], bool]:
    """The answer that the tokens of a text make, its pieces, and whether it was stopped."""
    pieces: list[str] = []
    answer = AnswerText(tokenizer, stop, pieces.append)
    stopped = any(answer.push(token) for token in tokenizer.encode(text, add_special=False, parse_special=False))
    answer.finish()
    return answer.text, pieces, stopped


@given(text=st.text("abh elo世é\n", max_size=30), stop=st.text("ahelo 世", min_size=1, max_size=4))
@example(text="hello hello", stop="o h")
@example(text="aaab", stop="aab")
def test_an_answer_ends_at_the_first_stop_text(tokenizer: Tokenizer, text: str, stop: str) -> None:
    written, pieces, stopped = write(tokenizer, text, stop)
    assert "".join(pieces) == written
    assert stopped == (stop in text)
    assert written == text.partition(stop)[0]


@given(
    text=st.text("abh elo世é\n", max_size=30), stop=st.lists(st.text("ahelo 世", min_size=1, max_size=4), max_size=3)
)
def test_with_several_stop_texts_none_is_left(tokenizer: Tokenizer, text: str, stop: list[str]) -> None:
    written, pieces, stopped = write(tokenizer, text, tuple(stop))
    assert "".join(pieces) == written
    assert text.startswith(written)
    assert stopped == any(end in text for end in stop)
    assert not any(end in written for end in stop)
    assert stopped or written == text


def test_text_is_emitted_as_soon_as_it_is_certain(tokenizer: Tokenizer) -> None:
    pieces: list[str] = []
    answer = AnswerText(tokenizer, ("lox",), pieces.append)
    messages = []
    for token in tokenizer.encode("abhelloa", add_special=False):
        answer.push(token)
        messages.append("".join(pieces))
    assert messages[-1] == "abhelloa"
    assert any(text.endswith("hel") for text in messages)  # "lo" may begin the stop text and waits
    answer.finish()
    assert "".join(pieces) == answer.text == "abhelloa"


def test_withheld_text_is_emitted_at_the_end(tokenizer: Tokenizer) -> None:
    assert write(tokenizer, "hell", "lll")[:2] == ("hell", ["he", "ll"])


def test_half_a_character_at_the_end_is_emitted(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("世", add_special=False)[:2]
    answer = AnswerText(tokenizer, ())
    for token in ids:
        assert not answer.push(token)
    assert answer.text == ""
    answer.finish()
    assert answer.text == tokenizer.decode(ids) == "\ufffd"


def test_a_stop_text_alone_is_one_text(tokenizer: Tokenizer) -> None:
    assert write(tokenizer, "hello", "lo")[0] == "hel"


def test_an_empty_stop_sequence_is_rejected(tokenizer: Tokenizer) -> None:
    for stop in ("", ("a", "")):
        with pytest.raises(InvalidInput, match="stop sequence is empty"):
            AnswerText(tokenizer, stop)
