"""Arrays are read as numpy writes them; pickles, false sizes and damaged archives end in one line."""

from __future__ import annotations

import io
import os
import struct
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from trisect.runtime import free_memory
from trisect.runtime.errors import InvalidInput, OutOfMemory
from trisect.runtime.files.array_archive import read_arrays


def header(shape: object, descr: str = "<f4") -> bytes:
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def archive(path: Path, content: bytes, name: str = "x.npy") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr(name, content)
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_are_those_that_numpy_wrote(tmp_path: Path, save) -> None:
    arrays = {
        "x": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
        "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "scalar": np.array(7, np.int64),
        "empty": np.zeros((0, 3)),
        "text": np.array(["a", "längere"]),
        "half": np.ones(3, ml_dtypes.bfloat16).view("V2"),
        "zeros": np.zeros((1000, 1000)),
        "truth": np.array([True, False]),
    }
    save(tmp_path / "a.npz", **arrays)
    read = read_arrays(tmp_path / "a.npz")
    assert list(read) == list(arrays)
    for name, array in arrays.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header((10**12,)), "needs 4000000000000 bytes for its shape"),
        (header((1 << 40, 1 << 40)), "for its shape"),
        (header((-1,)), "impossible shape"),
        (header((1 << 60,), "|V0"), "impossible shape"),
        (header((1,) * 100) + b"1234", "impossible shape"),
        (header((4,)) + bytes(15), "ends after|for its shape"),
        (header((4,)) + bytes(17), "more bytes than its shape needs"),
        (header((1,), "|O") + b"cos\nsystem\n(S'true'\ntR.", "pickled object"),
        (header("x"), "no array in numpy's format"),
        (b"\x93NUMPY\x01\x00" + struct.pack("<H", 9000) + b"(" * 9000, "no array in numpy's format"),
        (b"text", "no array in numpy's format"),
        (b"", "no array in numpy's format"),
    ],
)
def test_false_headers(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        read_arrays(archive(tmp_path / "a.npz", content))


def test_damaged_encrypted_and_other_files(tmp_path: Path) -> None:
    np.savez(tmp_path / "good.npz", x=np.arange(1000))
    whole = (tmp_path / "good.npz").read_bytes()
    buffer = io.BytesIO(whole)
    encrypted = bytearray(buffer.getvalue())
    for magic, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        encrypted[encrypted.index(magic) + flags] |= 1
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    for content in (whole[:-30], whole[: len(whole) // 2], bytes(encrypted), bytes(flipped), b"", b"PK"):
        (tmp_path / "bad.npz").write_bytes(content)
        with pytest.raises(InvalidInput, match=r"bad\.npz"):
            read_arrays(tmp_path / "bad.npz")
    os.mkfifo(tmp_path / "fifo")
    for name in ("fifo", "nothing", "."):
        with pytest.raises(InvalidInput, match="cannot read arrays"):
            read_arrays(tmp_path / name)


def test_an_archive_that_states_more_than_memory_is_not_inflated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(free_memory, "free_bytes", lambda: 1 << 30)
    path = archive(tmp_path / "a.npz", header((4,)) + bytes(16))
    content = bytearray(path.read_bytes())
    at = content.index(b"PK\x01\x02")
    content[at + 24 : at + 28] = struct.pack("<I", 0xFFFFFFF0)
    path.write_bytes(content)
    with pytest.raises(OutOfMemory, match=r"need 4\.29 GB, and 1\.07 GB are free"):
        read_arrays(path)
