"""Writes a conversation in a model's own chat format.

Chat templates are Jinja programs that come with model files from anywhere, so they run in a sandbox that reaches no
attribute of Python's and changes none of the objects given to it, and what they may produce is bounded.
"""

from __future__ import annotations

import datetime
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

from trisect.runtime.errors import InvalidInput, InvalidModel

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The format that models without a template are most likely to know."""

_LONGEST_TEMPLATE = 1 << 20
_LONGEST_TEXT = 1 << 26


class _GenerationMarks(Extension):
    """Reads ``{% generation %}`` blocks, which mark the assistant's text for training, as their content."""

    tags = {"generation"}  # noqa: RUF012  (declared so by Jinja)

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def render_chat(
    template: str | None,
    messages: Sequence[Mapping[str, Any]],
    *,
    bos_token: str = "",
    eos_token: str = "",
    add_generation_prompt: bool = True,
) -> str:
    """The text of a conversation.

    Parameters
    ----------
    template : str or None
        Jinja source as model files bring it; None = `CHATML`.
    messages : sequence of mapping
        Each with ``role`` and ``content``.
    bos_token, eos_token : str
        What the template may put around it.
    add_generation_prompt : bool
        End with the beginning of the assistant's answer.

    Raises
    ------
    InvalidInput
        Where a message lacks its role or content, or the template refuses the conversation.
    InvalidModel
        Where the template is not sound.

    Examples
    --------
    >>> print(render_chat(None, [{"role": "user", "content": "Hi"}]), end="")
    <|im_start|>user
    Hi<|im_end|>
    <|im_start|>assistant
    """
    for index, message in enumerate(messages):
        if not isinstance(message.get("role"), str) or "content" not in message:
            raise InvalidInput(f"message {index} has no role and content", remedy='give {"role": ..., "content": ...}')
    program = _compile(CHATML if template is None else template)
    pieces, length = [], 0
    try:
        for piece in program.generate(
            messages=[dict(message) for message in messages],
            bos_token=bos_token,
            eos_token=eos_token,
            add_generation_prompt=add_generation_prompt,
        ):
            pieces.append(piece)
            length += len(piece)
            if length > _LONGEST_TEXT:
                raise InvalidModel("the model's chat template does not end", remedy="use a plain prompt")
    except jinja2.exceptions.SecurityError as error:
        raise InvalidModel(f"the model's chat template does what it may not: {error}") from error
    except InvalidModel:
        raise
    except Exception as error:  # a template can fail in every way that a program can
        raise InvalidInput(f"the model's chat template refuses these messages: {error}") from error
    return "".join(pieces)


@functools.lru_cache(maxsize=8)
def _compile(template: str) -> jinja2.Template:
    if len(template) > _LONGEST_TEMPLATE:
        raise InvalidModel(f"a chat template of {len(template)} characters")
    # What transformers gives a template; templates in the wild rely on each of these.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationMarks, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda layout: datetime.datetime.now().strftime(layout)
    try:
        return environment.from_string(template)
    except (jinja2.TemplateSyntaxError, RecursionError) as error:
        raise InvalidModel(f"the model's chat template is not sound: {error}", remedy="use a plain prompt") from error


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _to_json(value: Any, indent: int | None = None, ensure_ascii: bool = False) -> str:
    # Jinja's own escapes < and > for HTML, which would garble markup.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)
