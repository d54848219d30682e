"""Tests of reading files of unknown origin: what is no regular file, too large or malformed is refused at once."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from trisect.runtime.untrusted_files import (
    MalformedFile,
    check_regular,
    decode_json,
    open_regular,
    parse_json,
    read_bytes,
    read_json,
    read_text,
    read_toml,
)


def test_regular_files_and_links_to_them_are_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert read_bytes(tmp_path / "a", 3) == read_bytes(tmp_path / "link") == b"abc"
    check_regular(tmp_path / "link")
    with open_regular(tmp_path / "a") as file:
        assert file.read() == b"abc"


def test_a_file_of_the_kernel_has_size_zero_and_a_content() -> None:
    assert read_bytes("/proc/self/status").startswith(b"Name:")


def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "zero").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "socket"))
        for name, kind in (("fifo", "a pipe"), ("zero", "a device"), ("socket", "a socket"), (".", "a folder")):
            with pytest.raises(OSError, match="expected a file") as refusal:
                read_bytes(tmp_path / name)
            assert refusal.value.strerror == f"it is {kind}, expected a file"


def test_larger_files_are_refused_without_reading_them(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(OSError, match="at most 1 MiB are expected"):
        read_bytes(tmp_path / "sparse", 1 << 20)


def test_names_that_no_file_has_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no file can have this name"):
        read_bytes(tmp_path / "a\0b")
    with pytest.raises(OSError, match="too long"):
        read_bytes(tmp_path / ("a" * 5000))


def test_other_encodings_are_named(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"ab\xff")
    for read in (read_text, read_toml, read_json):
        with pytest.raises(MalformedFile, match=r"not UTF-8 text \(byte 2\)"):
            read(tmp_path / "a")


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_deep_nesting_is_malformed(opening: str) -> None:
    deep = opening * 100_000
    for parse in (parse_json, lambda text: decode_json(text, object)):
        with pytest.raises(MalformedFile, match="nested too deeply"):
            parse(deep)


def test_deep_toml_is_malformed(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("a = " + "[" * 100_000)
    with pytest.raises(MalformedFile, match="nested too deeply"):
        read_toml(tmp_path / "a.toml")


def test_numbers_of_many_digits_and_wrong_types_are_malformed(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("a = " + "9" * 5000)
    with pytest.raises(MalformedFile, match="invalid TOML"):
        read_toml(tmp_path / "a.toml")
    with pytest.raises(MalformedFile, match="invalid JSON"):
        parse_json("9" * 5000)
    with pytest.raises(MalformedFile, match="Expected `int`, got `str`"):
        decode_json('{"a": "b"}', dict[str, int])
