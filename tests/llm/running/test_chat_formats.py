"""Published chat formats: what each makes of a conversation, as its model card shows it."""

from __future__ import annotations

import pytest

from trisect.llm.running.chat_formats import CHAT_FORMATS, published_format
from trisect.llm.tokenization.chat_template import render_chat

TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}, {"role": "user", "content": "1+1"}]
SYSTEM = [{"role": "system", "content": "Be brief."}]
EXPECTED = {
    "chatml": (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nYes?<|im_end|>\n"
        "<|im_start|>user\n1+1<|im_end|>\n<|im_start|>assistant\n"
    ),
    "llama-3": (
        "<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nYes?<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n1+1<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
    "gemma": (
        "<start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n<start_of_turn>model\nYes?<end_of_turn>\n"
        "<start_of_turn>user\n1+1<end_of_turn>\n<start_of_turn>model\n"
    ),
    "phi-3": (
        "<|system|>\nBe brief.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\nYes?<|end|>\n"
        "<|user|>\n1+1<|end|>\n<|assistant|>\n"
    ),
    "granite": (
        "<|start_of_role|>system<|end_of_role|>Be brief.<|end_of_text|>\n"
        "<|start_of_role|>user<|end_of_role|>Hi<|end_of_text|>\n"
        "<|start_of_role|>assistant<|end_of_role|>Yes?<|end_of_text|>\n"
        "<|start_of_role|>user<|end_of_role|>1+1<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>"
    ),
    "mistral": "[INST] Be brief.\n\nHi[/INST] Yes?</s>[INST] 1+1[/INST]",
}


@pytest.mark.parametrize("name", CHAT_FORMATS)
def test_conversations(name: str) -> None:
    assert render_chat(CHAT_FORMATS[name].template, [*SYSTEM, *TALK], eos_token="</s>") == EXPECTED[name]


@pytest.mark.parametrize("name", CHAT_FORMATS)
def test_a_tuned_model_has_the_format_of_its_tokens(name: str) -> None:
    form = CHAT_FORMATS[name]
    for title in ("Tiny 1B Instruct", "tiny-1b-it", "tiny_chat_v2", "tiny-instruct"):
        assert published_format(title, form.tokens) == form.template
        assert published_format(title, form.tokens[1:]) is None
    for title in ("tiny 1B", "italian", "summit"):
        assert published_format(title, form.tokens) is None
