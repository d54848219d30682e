"""The reader against the `gguf` package, and against files that were cut, forged or filled with noise."""

from __future__ import annotations

import contextlib
import struct
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.llm.gguf_factory import write_tiny_gguf
from trisect.llm.architectures import read_config
from trisect.llm.gguf.gguf_reader import GgufFile
from trisect.llm.gguf.gguf_tokenizer import read_tokenizer
from trisect.llm.gguf.quantised_blocks import dequantise
from trisect.runtime.errors import InvalidModel, UnsupportedModel


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", layers=1)


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def forge(
    path: Path,
    entries: Sequence[bytes] = (),
    tensors: Sequence[bytes] = (),
    *,
    counts: tuple[int, int] | None = None,
    version: int = 3,
) -> Path:
    """A GGUF file of hand-made parts, with 4096 bytes behind them."""
    tensor_count, entry_count = counts or (len(tensors), len(entries))
    header = b"GGUF" + struct.pack("<IQQ", version, tensor_count, entry_count)
    path.write_bytes(header + b"".join(entries) + b"".join(tensors) + bytes(4096))
    return path


def tensor(name: str, dims: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def test_agrees_with_the_gguf_package(sound: Path) -> None:
    ours, theirs = GgufFile.open(sound), gguf.GGUFReader(sound)
    assert ours.tensors.keys() == {t.name for t in theirs.tensors}
    for expected in theirs.tensors:
        result = ours.tensors[expected.name]
        assert result.shape == tuple(reversed(expected.shape.tolist()))
        assert result.type == expected.tensor_type.name
        assert result.data[0 : result.rows].tobytes() == expected.data.tobytes()
    for key, field in theirs.fields.items():
        if not key.startswith("GGUF."):
            value = ours.metadata[key]
            assert (value.tolist() if isinstance(value, np.ndarray) else value) == field.contents(), key


def test_every_kind_of_value(tmp_path: Path) -> None:
    path = tmp_path / "kinds.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    wanted = {
        "uint8": 255, "int8": -128, "uint16": 65535, "int16": -32768, "uint32": 2**32 - 1, "int32": -(2**31),
        "uint64": 2**64 - 1, "int64": -(2**63), "float32": 0.5, "float64": 1e300, "bool": True, "string": "é 世界",
    }  # fmt: skip
    for kind, value in wanted.items():
        getattr(writer, f"add_{kind}")(kind, value)
    writer.add_array("list", ["a", "", "é"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    metadata = GgufFile.open(path).metadata
    assert {key: metadata[key] for key in wanted} == wanted
    assert metadata["list"] == ["a", "", "é"]


def test_rows_in_any_order(sound: Path) -> None:
    result = GgufFile.open(sound).tensors["token_embd.weight"]
    expected = next(t for t in gguf.GGUFReader(sound).tensors if t.name == "token_embd.weight").data
    expected = np.asarray(expected).view(np.uint8).reshape(result.rows, -1)
    for order in ([3], [4, 3, 5], [0, 1, 200, 201, 90], [], [7, 7]):
        rows = np.array(order, np.intp)
        np.testing.assert_array_equal(result.data[rows], expected[rows])
    np.testing.assert_array_equal(result.data[2:9], expected[2:9])


def test_a_file_that_becomes_shorter(sound: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(sound.read_bytes())
    tensor = GgufFile.open(path).tensors["token_embd.weight"]
    with path.open("r+b") as file:
        file.truncate(100)
    with pytest.raises(InvalidModel, match=r"a\.gguf became shorter while it was read"):
        dequantise(tensor)


@pytest.mark.parametrize("what", ["strings", "metadata entries", "tensors"])
def test_counts_beyond_those_of_any_model(tmp_path: Path, what: str) -> None:
    """They fit into the file, but each item takes ten times its bytes in memory."""
    texts = text("a") + struct.pack("<IIQ", 9, 8, 5_000_000)
    counts = {"strings": (0, 1), "metadata entries": (0, 200_000), "tensors": (200_000, 0)}[what]
    path = forge(tmp_path / "forged.gguf", [texts] if what == "strings" else [], counts=counts)
    with path.open("r+b") as file:
        file.truncate(64 << 20)
    refused_quickly(path)
    with pytest.raises(InvalidModel, match=f"{what}, expected at most"):
        GgufFile.open(path)


def test_cut_anywhere(sound: Path, tmp_path: Path) -> None:
    content = sound.read_bytes()
    last = max(t.data_offset + t.n_bytes for t in gguf.GGUFReader(sound).tensors)
    for length in [*range(200), *range(200, last, 97), last - 1]:
        cut = tmp_path / "cut.gguf"
        cut.write_bytes(content[:length])
        with pytest.raises(InvalidModel, match=r"cut\.gguf"):
            GgufFile.open(cut)


@settings(max_examples=300)
@given(st.data())
def test_noise_ends_in_an_error_or_a_valid_model(sound: Path, data: st.DataObject) -> None:
    content = bytearray(sound.read_bytes())
    header = len(content) - 40000
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, header))
        new = data.draw(st.binary(min_size=1, max_size=8))
        content[at : at + len(new)] = new
    noisy = sound.with_name("noisy.gguf")
    noisy.write_bytes(content)
    # Anything else that is raised fails the test.
    with contextlib.suppress(InvalidModel, UnsupportedModel):
        file = GgufFile.open(noisy)
        read_config(file)
        read_tokenizer(file)
        for result in file.tensors.values():
            dequantise(result)


@pytest.mark.parametrize("content", [b"", b"GGUF", b"not a model at all, but long enough to hold a header"])
def test_not_gguf(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with pytest.raises(InvalidModel):
        GgufFile.open(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match="No such file"):
        GgufFile.open(tmp_path / "none.gguf")
    with pytest.raises(InvalidModel):
        GgufFile.open(tmp_path)


HUGE = 2**63
COUNTS = [(HUGE, 0), (0, HUGE), (2**64 - 1, 2**64 - 1), (10**6, 0), (0, 10**6), (129, 0)]
ENTRIES = {
    "long key": struct.pack("<Q", HUGE) + b"a",
    "long text": text("a") + struct.pack("<IQ", 8, HUGE) + b"b",
    "many texts": text("a") + struct.pack("<IIQ", 9, 8, HUGE),
    "many numbers": text("a") + struct.pack("<IIQ", 9, 10, 2**61),
    "more texts than bytes": text("a") + struct.pack("<IIQ", 9, 8, 4096),
    "nested arrays": text("a") + struct.pack("<IIQIQ", 9, 9, 1, 4, 1),
    "unknown kind": text("a") + struct.pack("<I", 99),
    "unknown kind in array": text("a") + struct.pack("<IIQ", 9, 99, 1),
    "bad utf-8 key": struct.pack("<Q", 2) + b"\xff\xfe" + struct.pack("<II", 4, 1),
    "bad utf-8 text": text("a") + struct.pack("<IQ", 8, 2) + b"\xc3\x28",
    "alignment 0": text("general.alignment") + struct.pack("<II", 4, 0),
    "alignment 3": text("general.alignment") + struct.pack("<II", 4, 3),
    "alignment text": text("general.alignment") + struct.pack("<I", 8) + text("32"),
}
TENSORS = {
    "no dimensions": [tensor("a", ())],
    "many dimensions": [tensor("a", (1,) * 5)],
    "million dimensions": [text("a") + struct.pack("<I", 10**6)],
    "empty": [tensor("a", (32, 0))],
    "huge": [tensor("a", (2**62, 2**62))],
    "product wraps to a small number": [tensor("a", (2**32, 2**32))],
    "partial block": [tensor("a", (33, 2), kind=2)],
    "outside": [tensor("a", (32,), offset=2**40)],
    "beyond 64 bits": [tensor("a", (32,), offset=2**64 - 32)],
    "not aligned": [tensor("a", (32,), offset=4)],
    "overlap": [tensor("a", (64,)), tensor("b", (64,), offset=128)],
    "same place": [tensor("a", (8,)), tensor("b", (8,))],
    "same name": [tensor("a", (8,)), tensor("a", (8,), offset=32)],
    "long name": [struct.pack("<Q", HUGE) + b"a"],
}


def refused_quickly(path: Path) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(InvalidModel, match=path.name):
            GgufFile.open(path)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("counts", COUNTS)
def test_forged_counts(tmp_path: Path, counts: tuple[int, int]) -> None:
    refused_quickly(forge(tmp_path / "forged.gguf", counts=counts))


@pytest.mark.parametrize("name", ENTRIES)
def test_forged_metadata(tmp_path: Path, name: str) -> None:
    refused_quickly(forge(tmp_path / "forged.gguf", [ENTRIES[name]]))


@pytest.mark.parametrize("name", TENSORS)
def test_forged_tensors(tmp_path: Path, name: str) -> None:
    refused_quickly(forge(tmp_path / "forged.gguf", tensors=TENSORS[name]))


def test_metadata_twice(tmp_path: Path) -> None:
    entry = text("a") + struct.pack("<II", 4, 1)
    refused_quickly(forge(tmp_path / "forged.gguf", [entry, entry]))


@pytest.mark.parametrize(("kind", "name"), [(15, "Q8_K"), (16, "IQ2_XXS"), (34, "TQ1_0"), (40, "NVFP4"), (26, "I32")])
def test_rejects_types_by_name(tmp_path: Path, kind: int, name: str) -> None:
    path = forge(tmp_path / "k.gguf", tensors=[tensor("blk.0.attn_q.weight", (256, 2), kind)])
    with pytest.raises(UnsupportedModel, match=rf"blk\.0\.attn_q\.weight is {name}; .*Q8_0"):
        GgufFile.open(path)


def test_rejects_unknown_types_versions_and_parts(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="unknown type 1234"):
        GgufFile.open(forge(tmp_path / "a.gguf", tensors=[tensor("a", (32,), 1234)]))
    with pytest.raises(UnsupportedModel, match="version 1"):
        GgufFile.open(forge(tmp_path / "b.gguf", version=1))
    with pytest.raises(UnsupportedModel, match="big-endian"):
        GgufFile.open(forge(tmp_path / "c.gguf", version=3 << 24))
    with pytest.raises(UnsupportedModel, match="one of 3 parts"):
        GgufFile.open(forge(tmp_path / "d.gguf", [text("split.count") + struct.pack("<IH", 2, 3)]))
