"""Chat templates: what real ones need, and what a hostile one must not reach."""

from __future__ import annotations

import datetime
import os

import pytest

from trisect.llm.running.chat_formats import CHATML
from trisect.llm.tokenization import chat_template
from trisect.llm.tokenization.chat_template import render_chat
from trisect.runtime.errors import InvalidInput, InvalidModel, TrisectError

TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}, {"role": "user", "content": "1+1"}]


def test_generation_prompt_is_optional() -> None:
    assert render_chat(CHATML, TALK[:1], add_generation_prompt=False) == "<|im_start|>user\nHi<|im_end|>\n"


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
    assert "{{ 7*7 }}" in render_chat(CHATML, [{"role": "user", "content": "{{ 7*7 }}"}])


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
            render_chat(CHATML, [TALK[0], bad])


_UNBOUNDED = {
    "nested loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "a power": "{{ 10 ** (10 ** 9) }}",
    "exponential recursion": "{% macro m(n) %}{% if n %}{{ m(n-1) }}{{ m(n-1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "a sort of much": "{% for i in range(9999) %}{{ (range(99999) | list * 20) | sort | first }}{% endfor %}",
}
_LARGE = {
    "a doubled text": "{% set n = namespace(x='a') %}{% for i in range(32) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "a joined text": "{% set n = namespace(x='a') %}{% for i in range(32) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "a wide format": "{{ ('%2000000000d' % 1) | length }}",
    "a wide new format": "{{ '{:2000000000}'.format(1) | length }}",
    "a product": "{{ 'x' * 2000000000 }}",
    "a filter's width": "{{ 'x' | center(2000000000) }}",
    "an indentation": "{{ ('\\nx' * 100000) | indent(100000) }}",
    "a nested list": "{% set n = namespace(x=[1]) %}{% for i in range(40) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "a replacement": "{{ ('a' * 100000).replace('a', 'a' * 100000) | length }}",
    "a join": "{{ range(99999) | join('a' * 100000) }}",
}
_MALFORMED = {
    "digits": "{{ 10 ** 5000 }}",
    "deep nesting": "{% for i in [1] %}" * 30 + "{% endfor %}" * 30,
    "deep brackets": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "long output": "{% for i in range(99999) %}" + "x" * 1000 + "{% endfor %}",
    "endless recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
}


@pytest.mark.parametrize("template", _UNBOUNDED.values(), ids=_UNBOUNDED)
def test_a_template_that_does_not_end_is_stopped(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template, "_TIME_LIMIT_S", 0.3)
    with pytest.raises(InvalidModel, match=r"cannot be used: no reply within 0.3 s"):
        render_chat(template, [{"role": "user", "content": "hi"}])


@pytest.mark.skipif(os.name == "nt", reason="the limit is watched from outside, which may be too late")
@pytest.mark.parametrize("template", _LARGE.values(), ids=_LARGE)
def test_a_template_that_takes_too_much_memory_is_stopped(template: str) -> None:
    with pytest.raises(InvalidModel, match="takes too much memory"):
        render_chat(template, [{"role": "user", "content": "hi"}])


@pytest.mark.parametrize("template", _MALFORMED.values(), ids=_MALFORMED)
def test_a_template_that_fails_in_another_way_is_an_error_of_the_model_or_the_input(template: str) -> None:
    with pytest.raises(TrisectError, match="the model's chat template"):
        render_chat(template, [{"role": "user", "content": "hi"}])


def test_messages_that_json_cannot_express_are_refused() -> None:
    with pytest.raises(InvalidInput, match="a message holds what JSON cannot express"):
        render_chat("{{ messages }}", [{"role": "user", "content": object()}])
