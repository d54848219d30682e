"""Mutations of valid files: of bytes, of JSON and TOML text, and of the fields of protobuf messages."""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

from google.protobuf.message import Message

_BYTES_MAX = 4 << 20
_INTEGERS = (0, -1, 1, 127, 255, 2**15, 2**31 - 1, 2**31, -(2**31), 2**32, 2**40, 2**62, 2**63 - 1, -(2**63))
_FLOATS = (0.0, -0.0, -1.0, 1e-45, 1e30, 3.4e38, float("inf"), float("-inf"), float("nan"))
_TEXTS = (
    "", " ", ".", "..", "../../etc/passwd", "/dev/zero", "a\0b", "\x1b]0;title\x07", "\u202eabc", "x" * 5000, "%s%n",
    "{{ 7 * 7 }}", "float64", "object", "seq(float32)", "cpu:ort", "npu:qnn", "\ufeff", "é世界", "nan", "1e400",
    "9" * 400, "Loop", "Resize",
)  # fmt: skip


def mutate_bytes(content: bytes, rng: random.Random) -> bytes:
    """Return the content after one to four random changes of its bytes."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(len(data) + 1)
        other = rng.randrange(len(data) + 1)
        low, high = min(at, other), max(at, other)
        short = min(high, low + 64)
        match rng.randrange(8):
            case 0 if data:
                data[at - 1] ^= 1 << rng.randrange(8)
            case 1 if data:
                data[at - 1] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, 0x0A, 0x1B, 0x22))
            case 2:
                width = rng.choice((1, 2, 4, 8))
                number = rng.choice(_INTEGERS) & ((1 << 8 * width) - 1)
                data[at : at + width] = number.to_bytes(width, rng.choice(("little", "big")))
            case 3:
                del data[low : short if rng.random() < 0.7 else high]
            case 4:
                data[at:at] = data[low:short] * rng.choice((1, 2, 100))
            case 5:
                del data[at:]
            case 6:
                data[at:at] = rng.randbytes(rng.choice((1, 4, 64, 4096)))
            case _:
                data[low:short] = bytes(short - low)
    return bytes(data[:_BYTES_MAX])


def mutate_json(content: bytes, rng: random.Random) -> bytes:
    """Return a JSON document with a value replaced, removed, renamed or nested; at times, with its bytes changed."""
    if rng.random() < 0.2:
        return mutate_bytes(content, rng)
    document = json.loads(content)
    for _ in range(rng.choice((1, 1, 2))):
        places = list(_places(document))
        if not places:
            break
        parent, key = rng.choice(places)
        match rng.randrange(6):
            case 0:
                del parent[key]
            case 1 if isinstance(parent, dict):
                parent[rng.choice(_TEXTS)] = parent.pop(key)
            case 2 if isinstance(parent, list):
                parent[key:key] = [copy.deepcopy(parent[key])] * rng.choice((1, 2, 1000))
            case 3:
                parent[key] = copy.deepcopy(rng.choice(places)[0])
                return _dumps(document, rng)
            case _:
                parent[key] = _hostile_value(rng)
    return _dumps(document, rng)


def mutate_toml(content: bytes, rng: random.Random) -> bytes:
    """Return a TOML document with the value of one line replaced; at times, with its bytes changed."""
    if rng.random() < 0.3:
        return mutate_bytes(content, rng)
    lines = content.decode().splitlines()
    at = rng.randrange(len(lines))
    name, is_setting, _ = lines[at].partition("=")
    value = rng.choice(
        ("[" * 50_000, "{a = " * 10_000, "1e400", "nan", "-inf", "1979-05-27", "0x7fffffffffffffffff", "")
    )
    if rng.random() < 0.6:
        value = json.dumps(_hostile_value(rng))
    lines[at] = f"{name} = {value}" if is_setting else f"[{json.dumps(rng.choice(_TEXTS))}]"
    return "\n".join(lines).encode(errors="surrogatepass")


def mutate_text(content: bytes, rng: random.Random) -> bytes:
    """Return text with one of its numbers or words replaced; at times, with its bytes changed."""
    words = list(re.finditer(rb"\S+", content))
    if rng.random() < 0.3 or not words:
        return mutate_bytes(content, rng)
    word = rng.choice(words)
    other = rng.choice((str(rng.choice(_INTEGERS)), str(rng.choice(_FLOATS)), rng.choice(_TEXTS), "9" * 5000))
    return content[: word.start()] + other.encode(errors="surrogatepass") + content[word.end() :]


def mutate_message(message: Message, rng: random.Random) -> None:
    """Change one to three fields of a protobuf message, at any depth."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        changes = list(_field_changes(message, rng))
        if changes:
            rng.choice(changes)()


def _field_changes(message: Message, rng: random.Random) -> Iterator[Callable[[], None]]:
    for field, value in message.ListFields():
        is_repeated = field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED
        if field.message_type is not None:
            for part in value if is_repeated else (value,):
                yield from _field_changes(part, rng)
            yield lambda m=message, f=field: m.ClearField(f.name)
            if is_repeated:
                yield lambda v=value: v.add().CopyFrom(rng.choice(list(v)))
                yield lambda v=value: v.__delitem__(rng.randrange(len(v)))
        elif is_repeated:
            yield lambda v=value, f=field: v.__setitem__(rng.randrange(len(v)), _scalar(f, rng))
            yield lambda v=value, f=field: v.append(_scalar(f, rng))
            yield lambda v=value: v.__delitem__(rng.randrange(len(v)))
        else:
            yield lambda m=message, f=field: setattr(m, f.name, _scalar(f, rng))
            yield lambda m=message, f=field: m.ClearField(f.name)


def _scalar(field: Any, rng: random.Random) -> Any:
    if field.type == field.TYPE_STRING:
        return rng.choice(_TEXTS)
    if field.type == field.TYPE_BYTES:
        return rng.choice((b"", b"\0", b"\xff" * 16, b"linear", rng.randbytes(64)))
    if field.type in (field.TYPE_FLOAT, field.TYPE_DOUBLE):
        return rng.choice(_FLOATS)
    if field.type == field.TYPE_ENUM:
        return rng.choice(sorted(field.enum_type.values_by_number))
    is_unsigned = field.type in (field.TYPE_UINT32, field.TYPE_UINT64)
    bits = 32 if field.type in (field.TYPE_INT32, field.TYPE_UINT32) else 64
    low, high = (0, 2**bits - 1) if is_unsigned else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return min(max(rng.choice((*_INTEGERS, *range(17))), low), high)


def _places(document: Any) -> Iterator[tuple[Any, Any]]:
    for key in document if isinstance(document, dict) else range(len(document)):
        yield document, key
        if isinstance(document[key], (dict, list)):
            yield from _places(document[key])


def _hostile_value(rng: random.Random) -> Any:
    plain = (None, True, [], {}, [[]], {"a": {}}, [None] * 1000, rng.choice(_INTEGERS), rng.choice(_FLOATS), 10**400)
    return rng.choice(_TEXTS) if rng.random() < 0.4 else rng.choice(plain)


def _dumps(document: Any, rng: random.Random) -> bytes:
    try:
        text = json.dumps(document)
    except ValueError:  # it contains itself
        text = '{"a":' * 50_000
    if rng.random() < 0.03:
        text = text.replace("{", "[" * 30_000, 1)
    return text.encode(errors="surrogatepass")
