"""A prompt is tokenised once, and checked against the model."""

from __future__ import annotations

import pytest

from tests.llm.tiny_llms import TinyLlms
from trisect.llm.bundle import Bundle
from trisect.llm.running.prompt import tokenise
from trisect.llm.tokenization.tokenizer import Tokenizer
from trisect.runtime.errors import ContextExceeded, InvalidInput


@pytest.fixture(scope="module")
def bundle(tiny_llms: TinyLlms) -> Bundle:
    return tiny_llms.get().bundle


@pytest.fixture(scope="module")
def tokenizer(bundle: Bundle) -> Tokenizer:
    return Tokenizer.load(bundle.folder)


def test_text_is_encoded_plain_or_as_a_chat(bundle: Bundle, tokenizer: Tokenizer) -> None:
    assert list(tokenise(bundle, tokenizer, "hello", chat=False).ids) == tokenizer.encode("hello")
    chat = tokenise(bundle, tokenizer, "hello").ids
    text = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    assert list(chat) == tokenizer.encode(text, add_special=False)
    for is_chat in (True, False):
        with pytest.raises(InvalidInput, match="prompt is empty"):
            tokenise(bundle, tokenizer, "", chat=is_chat)


def test_a_base_model_continues_the_text(tiny_llms: TinyLlms) -> None:
    bundle = tiny_llms.get(metadata={"tokenizer.chat_template": None}).bundle
    tokenizer = Tokenizer.load(bundle.folder)
    assert list(tokenise(bundle, tokenizer, "hello").ids) == tokenizer.encode("hello")
    with pytest.raises(InvalidInput, match="base model"):
        tokenizer.encode_chat([{"role": "user", "content": "hello"}])


def test_ids_that_the_model_cannot_read_are_rejected(bundle: Bundle, tokenizer: Tokenizer) -> None:
    longest = tokenise(bundle, tokenizer, [0] * 256)
    assert longest.ids == (0,) * 256
    assert tokenise(bundle, tokenizer, longest) is longest
    with pytest.raises(ContextExceeded, match="257 tokens, the model's context 256"):
        tokenise(bundle, tokenizer, [0] * 257)
    with pytest.raises(InvalidInput, match="no tokens"):
        tokenise(bundle, tokenizer, [])
    for unknown in (-1, 384, 1.5):
        with pytest.raises(InvalidInput, match=f"token {unknown} is not"):
            tokenise(bundle, tokenizer, [0, unknown])
