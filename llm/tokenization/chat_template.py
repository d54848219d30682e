"""Formats a conversation with a model's chat template.

Chat templates are Jinja programs from untrusted model files: they run in a sandbox without access to Python's
attributes and without changing the objects passed in, in a child process with limits of time and memory.
"""

from __future__ import annotations

import datetime
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jinja2
import psutil
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

from trisect.runtime.child_process import ChildProcessFailed
from trisect.runtime.errors import InvalidInput, InvalidModel, one_line
from trisect.runtime.isolated_calls import IsolatedCalls

_MAX_TEMPLATE_LENGTH = 1 << 20
_MAX_TEXT_LENGTH = 1 << 24
_TIME_LIMIT_S = 5.0
_MEMORY_BYTES = 256 << 20
"""What a template may allocate beyond the interpreter and `_MEMORY_PER_CHARACTER` of the conversation."""
_MEMORY_PER_CHARACTER = 64
_RESIDENT_LIMIT_BYTES = 2 << 30
_REMEDY = "use a plain prompt"


class _GenerationBlock(Extension):
    """Renders the content of ``{% generation %}`` blocks, which mark the assistant's text for training."""

    tags = {"generation"}  # noqa: RUF012  (declared so by Jinja)

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def render_chat(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    bos_token: str = "",
    eos_token: str = "",
    add_generation_prompt: bool = True,
) -> str:
    """Return the text of a conversation.

    Parameters
    ----------
    template : str
        Jinja source from the model files, or of a published format (`chat_formats.py`).
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
    >>> render_chat("{{ messages[0].content }}!", [{"role": "user", "content": "Hi"}])
    'Hi!'
    """
    for index, message in enumerate(messages):
        if not isinstance(message.get("role"), str) or "content" not in message:
            raise InvalidInput(f"message {index} lacks role or content", remedy='give {"role": ..., "content": ...}')
    conversation = [dict(message) for message in messages]
    if len(template) > _MAX_TEMPLATE_LENGTH:
        raise InvalidModel(
            f"the model's chat template has {len(template)} characters, at most {_MAX_TEMPLATE_LENGTH} are allowed"
        )
    try:
        return _sandbox().call(
            _render_limited, _TIME_LIMIT_S, template, conversation, bos_token, eos_token, add_generation_prompt
        )
    except ChildProcessFailed as error:
        raise InvalidModel(f"the model's chat template cannot be used: {error.reason}", remedy=_REMEDY) from error
    except TypeError as error:
        raise InvalidInput(f"a message holds what JSON cannot express: {error}", remedy="give plain values") from error


def prepare_rendering() -> None:
    """Start the process that renders templates in the background, where it does not run yet."""
    _sandbox().start()


@functools.cache
def _sandbox() -> IsolatedCalls:
    return IsolatedCalls("the process of chat templates", memory_limit_bytes=_RESIDENT_LIMIT_BYTES)


def _render_limited(
    template: str, messages: list[dict[str, Any]], bos_token: str, eos_token: str, add_generation_prompt: bool
) -> str:
    """Render a template with a limit on the memory of this process: the function that the child process calls."""
    size = len(template) + sum(len(repr(message)) for message in messages)
    try:
        with _limited_memory(_MEMORY_BYTES + _MEMORY_PER_CHARACTER * size):
            return _rendered(template, messages, bos_token, eos_token, add_generation_prompt)
    except MemoryError:
        raise InvalidModel("the model's chat template takes too much memory", remedy=_REMEDY) from None


@contextmanager
def _limited_memory(more_bytes: int) -> Iterator[None]:
    try:
        import resource
    except ImportError:  # Windows, where the parent watches the process's memory
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    limit_bytes = psutil.Process().memory_info().vms + more_bytes
    if before[1] != resource.RLIM_INFINITY:
        limit_bytes = min(limit_bytes, before[1])
    resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _rendered(
    template: str, messages: list[dict[str, Any]], bos_token: str, eos_token: str, add_generation_prompt: bool
) -> str:
    program = _compile(template)
    pieces, length = [], 0
    try:
        for piece in program.generate(
            messages=messages,
            bos_token=bos_token,
            eos_token=eos_token,
            add_generation_prompt=add_generation_prompt,
        ):
            pieces.append(piece)
            length += len(piece)
            if length > _MAX_TEXT_LENGTH:
                raise InvalidModel(
                    f"the model's chat template writes more than {_MAX_TEXT_LENGTH} characters", remedy=_REMEDY
                )
    except jinja2.exceptions.SecurityError as error:
        raise InvalidModel(
            f"the model's chat template is not allowed in the sandbox: {error}", remedy=_REMEDY
        ) from error
    except (InvalidModel, MemoryError):
        raise
    except Exception as error:  # a template is a program: it can fail in any way
        text = one_line(error, with_kind=not isinstance(error, jinja2.TemplateError))
        raise InvalidInput(f"the model's chat template rejects these messages: {text}") from error
    return "".join(pieces)


@functools.lru_cache(maxsize=8)
def _compile(template: str) -> jinja2.Template:
    # As transformers provides it; published templates rely on each of these.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda layout: datetime.datetime.now().strftime(layout)
    try:
        return environment.from_string(template)
    except MemoryError:
        raise
    except Exception as error:  # constant expressions are computed here, and can fail in any way
        raise InvalidModel(f"the model's chat template is malformed: {one_line(error)}", remedy=_REMEDY) from error


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _to_json(value: Any, indent: int | None = None, ensure_ascii: bool = False) -> str:
    # Jinja's own filter escapes < and > for HTML, which would garble special tokens.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)
