"""Chat templates: what real ones need, and what a hostile one must not reach."""

from __future__ import annotations

import datetime

import pytest

from trisect.llm.running.chat_template import render_chat
from trisect.runtime.errors import InvalidInput, InvalidModel

TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}, {"role": "user", "content": "1+1"}]


def test_chatml_without_a_template() -> None:
    assert render_chat(None, TALK) == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYes?<|im_end|>\n<|im_start|>user\n1+1<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert render_chat(None, TALK[:1], add_generation_prompt=False) == "<|im_start|>user\nHi<|im_end|>\n"


def test_llama_2_style() -> None:
    template = (
        "{% for message in messages %}{% if message['role'] == 'user' %}"
        "{{ bos_token + '[INST] ' + message['content'].strip() + ' [/INST]' }}"
        "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + ' ' + eos_token }}"
        "{% else %}{{ raise_exception('Only user and assistant roles') }}{% endif %}{% endfor %}"
    )
    expected = "<s>[INST] Hi [/INST] Yes? </s><s>[INST] 1+1 [/INST]"
    assert render_chat(template, TALK, bos_token="<s>", eos_token="</s>") == expected
    with pytest.raises(InvalidInput, match="Only user and assistant roles"):
        render_chat(template, [{"role": "tool", "content": ""}])


def test_blocks_are_trimmed_as_transformers_does() -> None:
    assert render_chat("  {% if true %}\n  x\n  {% endif %}\ny", []) == "  x\ny"


def test_functions_that_published_templates_call() -> None:
    today = datetime.date.today().strftime("%d %b %Y")
    assert render_chat("{{ strftime_now('%d %b %Y') }}", []) == today
    assert render_chat("{{ messages | tojson }}", [{"role": "é", "content": "<&>"}]) == (
        '[{"role": "é", "content": "<&>"}]'
    )
    assert render_chat("{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}x{% endfor %}", TALK) == "x"
    assert render_chat("{% generation %}{{ messages[0].content }}{% endgeneration %}", TALK) == "Hi"
    assert (
        render_chat("{% set ns = namespace(n=0) %}{% set ns.n = 3 %}{{ ns.n }}{{ tools is defined }}", TALK) == "3False"
    )


def test_content_is_never_a_template() -> None:
    assert "{{ 7*7 }}" in render_chat(None, [{"role": "user", "content": "{{ 7*7 }}"}])


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__init__.__globals__ }}",
        "{{ raise_exception.__globals__['datetime'] }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'role': 'x'}) }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ raise_exception.__code__.co_consts }}",
        "{{ '{0.__class__.__mro__}'.format(1) }}",
        "{{ range(10 ** 9) | list }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
    ],
)
def test_hostile_templates_reach_nothing(template: str) -> None:
    with pytest.raises((InvalidModel, InvalidInput), match="chat template"):
        render_chat(template, TALK)


def test_output_is_bounded() -> None:
    template = "{% for i in range(99999) %}{% for j in range(99999) %}" + "x" * 1000 + "{{ i }}{% endfor %}{% endfor %}"
    with pytest.raises(InvalidModel, match="writes more than"):
        render_chat(template, [])


def test_damaged_templates() -> None:
    with pytest.raises(InvalidModel, match="malformed"):
        render_chat("{% for %}", TALK)
    with pytest.raises(InvalidModel):
        render_chat("x" * (2 << 20), TALK)
    with pytest.raises(InvalidInput, match="rejects"):
        render_chat("{{ messages[0].content.nothing.more }}", TALK)


def test_messages_without_role_or_content() -> None:
    for bad in ({"role": "user"}, {"content": "x"}, {"role": 1, "content": "x"}):
        with pytest.raises(InvalidInput, match="message 1"):
            render_chat(None, [TALK[0], bad])
