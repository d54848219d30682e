"""Published chat formats, for files of tuned models that hold no chat template of their own.

A file without a template is usually a base model, which continues a text and knows no turns. Only where its name says
that it was tuned for chats, the format follows from the special tokens of its vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass


@dataclass(frozen=True)
class ChatFormat:
    """A chat format as a Jinja template."""

    tokens: tuple[str, ...]
    """Special tokens by which a vocabulary shows it."""
    template: str


# The system prompt belongs to the first user message in formats without a system role (as in Gemma's own template).
_SYSTEM_FIRST = (
    "{% if messages[0]['role'] == 'system' %}{% set prefix = messages[0]['content'] + '\n\n' %}"
    "{% set turns = messages[1:] %}{% else %}{% set prefix = '' %}{% set turns = messages %}{% endif %}"
)
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""OpenAI's Chat Markup Language, which Qwen and SmolLM use."""
_LLAMA3 = (
    "{% for message in messages %}<|start_header_id|>{{ message.role }}<|end_header_id|>\n\n"
    "{{ message.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
"""Model card of Llama 3."""
_GEMMA = (
    _SYSTEM_FIRST + "{% for message in turns %}<start_of_turn>"
    "{{ 'model' if message.role == 'assistant' else message.role }}\n"
    "{{ (prefix if loop.first else '') + message.content | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
"""Model card of Gemma 3."""
_PHI3 = (
    "{% for message in messages %}<|{{ message.role }}|>\n{{ message.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
"""Model card of Phi-3-mini."""
_GRANITE = (
    "{% for message in messages %}<|start_of_role|>{{ message.role }}<|end_of_role|>{{ message.content }}"
    "<|end_of_text|>\n{% endfor %}{% if add_generation_prompt %}<|start_of_role|>assistant<|end_of_role|>{% endif %}"
)
"""Model card of Granite 3."""
_MISTRAL = (
    _SYSTEM_FIRST + "{% for message in turns %}{% if message.role == 'assistant' %} {{ message.content | trim }}"
    "{{ eos_token }}{% else %}[INST] {{ (prefix if loop.first else '') + message.content }}[/INST]{% endif %}"
    "{% endfor %}"
)
"""Mistral's tokenizer v3 (mistral-common)."""
CHAT_FORMATS = {
    "llama-3": ChatFormat(("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), _LLAMA3),
    "gemma": ChatFormat(("<start_of_turn>", "<end_of_turn>"), _GEMMA),
    "granite": ChatFormat(("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>"), _GRANITE),
    "phi-3": ChatFormat(("<|user|>", "<|assistant|>", "<|end|>"), _PHI3),
    "mistral": ChatFormat(("[INST]", "[/INST]"), _MISTRAL),
    "chatml": ChatFormat(("<|im_start|>", "<|im_end|>"), CHATML),
}
_TUNED = re.compile(r"(?:^|[-_. ])(?:instruct|chat|it|sft|dpo)(?:[-_. \d]|$)", re.IGNORECASE)


def published_format(name: str, special_tokens: Container[str]) -> str | None:
    """Return the chat template of a model without one, or None for a base model.

    Parameters
    ----------
    name : str
        The model's name, and what else its file says of its purpose.
    special_tokens : container of str
        Special tokens of its vocabulary.

    Examples
    --------
    >>> published_format("gemma-3-270m", ["<start_of_turn>", "<end_of_turn>"]) is None
    True
    >>> published_format("gemma-3-270m-it", ["<start_of_turn>", "<end_of_turn>"]) == CHAT_FORMATS["gemma"].template
    True
    """
    if not _TUNED.search(name):
        return None
    matching = (form for form in CHAT_FORMATS.values() if all(token in special_tokens for token in form.tokens))
    return next((form.template for form in matching), None)
