"""Formats a conversation with a model's chat template.

Chat templates are Jinja programs from untrusted model files: they run in a sandbox without access to Python's
attributes and without changing the objects passed in, and the length of their output is limited.
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
"""ChatML: the format that models without a template most likely know."""

_MAX_TEMPLATE_LENGTH = 1 << 20
_MAX_TEXT_LENGTH = 1 << 26


class _GenerationBlock(Extension):
    """Renders the content of ``{% generation %}`` blocks, which mark the assistant's text for training."""

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
    """Return the text of a conversation.

    Parameters
    ----------
    template : str or None
        Jinja source from the model files; None = `CHATML`.
    messages : sequence of mapping
        Each with ``role`` and ``content``.
    bos_token, eos_token : str
        Text of the special tokens that the template may insert.
    add_generation_prompt : bool
        End with the header of the assistant's answer.

    Raises
    ------
    InvalidInput
        If a message lacks its role or content, or the template rejects the conversation.
    InvalidModel
        If the template is malformed, too long, or tries something forbidden.

    Examples
    --------
    >>> print(render_chat(None, [{"role": "user", "content": "Hi"}]), end="")
    <|im_start|>user
    Hi<|im_end|>
    <|im_start|>assistant
    """
    for index, message in enumerate(messages):
        if not isinstance(message.get("role"), str) or "content" not in message:
            raise InvalidInput(f"message {index} lacks role or content", remedy='give {"role": ..., "content": ...}')
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
            if length > _MAX_TEXT_LENGTH:
                raise InvalidModel(
                    f"the model's chat template writes more than {_MAX_TEXT_LENGTH} characters",
                    remedy="use a plain prompt",
                )
    except jinja2.exceptions.SecurityError as error:
        raise InvalidModel(
            f"the model's chat template is not allowed in the sandbox: {error}", remedy="use a plain prompt"
        ) from error
    except InvalidModel:
        raise
    except Exception as error:  # a template is a program: it can fail in any way
        raise InvalidInput(f"the model's chat template rejects these messages: {error}") from error
    return "".join(pieces)


@functools.lru_cache(maxsize=8)
def _compile(template: str) -> jinja2.Template:
    if len(template) > _MAX_TEMPLATE_LENGTH:
        raise InvalidModel(
            f"the model's chat template has {len(template)} characters, at most {_MAX_TEMPLATE_LENGTH} are allowed"
        )
    # As transformers provides it; published templates rely on each of these.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda layout: datetime.datetime.now().strftime(layout)
    try:
        return environment.from_string(template)
    except (jinja2.TemplateSyntaxError, RecursionError) as error:
        raise InvalidModel(f"the model's chat template is malformed: {error}", remedy="use a plain prompt") from error


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _to_json(value: Any, indent: int | None = None, ensure_ascii: bool = False) -> str:
    # Jinja's own filter escapes < and > for HTML, which would garble special tokens.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)
