"""An import runs once, completely or not at all, and replaces only what an import wrote."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.llm import tiny_llms as kit
from tests.llm.gguf_factory import write_tiny_gguf
from trisect.llm.bundle import BUNDLE_FILE, Bundle, StoredForm
from trisect.llm.gguf.gguf_reader import GgufFile
from trisect.llm.graphs import weights_file as weights
from trisect.llm.importing import gguf_import
from trisect.llm.importing import model_import as importing
from trisect.llm.importing.model_import import open_model
from trisect.llm.tokenization.tokenizer import Tokenizer
from trisect.runtime.errors import InvalidInput, InvalidModel, StorageFailed, TrisectError, UnsupportedModel


@pytest.fixture
def bundles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of bundles of this test's own."""
    monkeypatch.setenv("TRISECT_BUNDLES", str(tmp_path / "bundles"))
    return tmp_path / "bundles"


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    return write_tiny_gguf(tmp_path / "tiny.gguf")


@pytest.fixture
def carried(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Sources that were really imported."""
    seen: list[Path] = []
    real = gguf_import.import_gguf

    def note(source: Path, folder: Path, **options: Any) -> Bundle:
        seen.append(source)
        return real(source, folder, **options)

    monkeypatch.setattr(gguf_import, "import_gguf", note)
    return seen


def listing(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_an_import_is_cached_and_reused(bundles: Path, gguf: Path, carried: list[Path]) -> None:
    steps: list[float] = []
    bundle = open_model(gguf, progress=lambda done, total, what: steps.append(done / total))
    assert steps == sorted(steps)
    assert (steps[0], steps[-1]) == (0.0, 1.0)
    assert Path(bundle.folder).parent == bundles
    assert listing(Path(bundle.folder)) == {
        "bundle.json", "in_place.onnx", "in_place.float16.onnx", "lookup.onnx", "standard.onnx", "static.onnx",
        "weights.bin", "tokenizer.json", "prompting.json",
    }  # fmt: skip
    assert open_model(gguf) == bundle
    assert open_model(bundle.folder) == bundle
    moved = gguf.rename(gguf.with_name("moved.gguf"))
    assert open_model(moved).source_sha256 == bundle.source_sha256
    assert len(carried) == 2
    assert not [path for path in bundles.iterdir() if path.name.startswith(".")]


def test_the_description_of_the_model(bundles: Path, tmp_path: Path) -> None:
    bundle = open_model(write_tiny_gguf(tmp_path / "a.gguf", "qwen3", "Q8_0", tied=False))
    assert (bundle.name, bundle.source, bundle.layers, bundle.kv_layers[1].kv_heads) == ("tiny qwen3", "a.gguf", 2, 2)
    assert (bundle.kv_layers[1].head_dim, bundle.vocab, bundle.context_length) == (16, 384, 256)
    layer = 64 * (64 + 32 + 32) + 64 * 64 + 3 * 64 * 96
    assert bundle.flops_per_token == 2 * 2 * layer
    assert bundle.decode_bytes_per_token == (2 * layer + 384 * 64) // 32 * 36  # a byte a weight, a float32 a block
    assert bundle.weights_bytes == (Path(bundle.folder) / "weights.bin").stat().st_size
    assert Tokenizer.load(bundle.folder).vocab_size == 384


def test_another_precision_is_another_bundle(bundles: Path, gguf: Path) -> None:
    blocks, wide = open_model(gguf), open_model(gguf, weights="float32")
    assert blocks.folder != wide.folder
    assert blocks.key != wide.key
    assert wide.weights_bytes > blocks.weights_bytes


def test_the_same_file_gives_the_same_bytes(gguf: Path, tmp_path: Path) -> None:
    first, second = (Path(open_model(gguf, folder=tmp_path / name).folder) for name in ("a", "b"))
    assert listing(first) == listing(second)
    for name in listing(first):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_a_sliding_window_does_not_limit_the_context(bundles: Path, tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "a.gguf", metadata={"llama.attention.sliding_window": 100})
    bundle = open_model(path)
    assert bundle.context_length == 256
    assert bundle.notes == ()


def test_a_file_that_states_a_huge_context_gets_a_bounded_one(bundles: Path, tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "a.gguf", metadata={"llama.context_length": 1 << 30})
    bundle = open_model(path)
    assert bundle.context_length == 1 << 18
    assert bundle.notes == (f"context limited to {1 << 18} of the {1 << 30} tokens that the file states",)


def test_changed_sources_are_imported_again(bundles: Path, gguf: Path) -> None:
    first = open_model(gguf)
    write_tiny_gguf(gguf, seed=1)
    assert open_model(gguf).source_sha256 != first.source_sha256


def test_a_large_file_is_identified_by_samples(
    bundles: Path, gguf: Path, monkeypatch: pytest.MonkeyPatch, carried: list[Path]
) -> None:
    for name, value in (("_HASHED_MAX_BYTES", 1000), ("_HEADER_BYTES", 1000), ("_SAMPLE_BYTES", 100)):
        monkeypatch.setattr(importing, name, value)
    first = open_model(gguf)
    assert open_model(gguf) == first
    moved = gguf.rename(gguf.with_name("moved.gguf"))
    assert open_model(moved).source_sha256 == first.source_sha256
    content, times = bytearray(moved.read_bytes()), (moved.stat().st_atime_ns, moved.stat().st_mtime_ns)
    seen = {first.source_sha256}
    for at in (500, len(content) - 1):  # the header and the end, with the same size and time
        content[at] ^= 1
        moved.write_bytes(content)
        os.utime(moved, ns=times)
        seen.add(importing._fingerprint(moved))
    os.utime(moved, ns=(0, times[1] + 1))
    assert len(seen | {importing._fingerprint(moved)}) == 4


def test_the_description_says_how_each_type_is_stored(bundles: Path, tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "a.gguf", quant="Q4_1", hidden=128, ffn=192, kinds={"attn_v.weight": "Q5_1"})
    count = 2 * (128 * 128 * 2 + 64 * 128 + 3 * 128 * 192)
    fast = {(form.type, form.phase): form for form in open_model(path).forms}
    assert fast.keys() == {(t, p) for t in ("Q4_1", "Q5_1") for p in ("prefill", "decode")} | {("Q8_0", "both")}
    exact = "4 bits in blocks of 32, offsets"
    assert fast["Q4_1", "decode"] == StoredForm("Q4_1", "decode", exact, count, 0.0, bits=4, block=32, has_offsets=True)
    assert fast["Q4_1", "prefill"].form == "8 bits in blocks of 64"
    assert 0.004 < fast["Q4_1", "prefill"].error < 0.008
    assert fast["Q5_1", "decode"].form == "8 bits in blocks of 32"
    assert 0 < fast["Q5_1", "decode"].error < 0.0035
    exact = open_model(path, prefer="exact")
    assert {(form.type, form.phase, form.form, form.error) for form in exact.forms} == {
        ("Q4_1", "both", "4 bits in blocks of 32, offsets", 0.0),
        ("Q5_1", "both", "8 bits in blocks of 32, offsets", 0.0),
        ("Q8_0", "both", "8 bits in blocks of 32", 0.0),
    }
    assert exact.weights_bytes < 0.6 * open_model(path).weights_bytes


def test_weights_that_are_not_finite_leave_nothing(bundles: Path, tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "a.gguf", quant="Q4_K", hidden=256, ffn=256)
    tensor = GgufFile.open(path).tensors["blk.1.ffn_down.weight"]
    content = bytearray(path.read_bytes())
    content[tensor.data.position : tensor.data.position + 2] = np.array(np.nan, "<f2").tobytes()
    path.write_bytes(content)
    with pytest.raises(InvalidModel, match=r"blk\.1\.ffn_down\.weight holds a weight that is not finite"):
        open_model(path)
    assert list(bundles.iterdir()) == []


def test_a_newer_importer_imports_again(bundles: Path, gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_model(gguf)
    monkeypatch.setattr(importing, "IMPORTER", "next")
    second = open_model(gguf)
    assert second.folder != first.folder
    assert second.key != first.key


@pytest.mark.parametrize("damage", ["description", "graph"])
def test_a_damaged_bundle_in_the_cache_is_made_again(bundles: Path, gguf: Path, damage: str) -> None:
    bundle = open_model(gguf)
    if damage == "description":
        (Path(bundle.folder) / BUNDLE_FILE).write_bytes(b"{")
    else:
        (Path(bundle.folder) / "standard.onnx").unlink()
    assert open_model(gguf) == bundle
    assert Bundle.load(bundle.folder) == bundle


def test_nothing_else_is_overwritten(gguf: Path, tmp_path: Path, carried: list[Path]) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "letter.txt").write_text("dear")
    with pytest.raises(StorageFailed, match="contains something other than a bundle; name a new folder"):
        open_model(gguf, folder=mine)
    with pytest.raises(StorageFailed):
        open_model(gguf, folder=mine / "letter.txt")
    assert (mine / "letter.txt").read_text() == "dear"
    other = open_model(write_tiny_gguf(tmp_path / "other.gguf", seed=2), folder=tmp_path / "there")
    with pytest.raises(InvalidModel, match="holds the bundle of another model"):
        open_model(gguf, folder=tmp_path / "there")
    assert open_model(tmp_path / "there") == other
    assert carried == [tmp_path / "other.gguf"]
    description = json.loads((tmp_path / "there" / BUNDLE_FILE).read_bytes())
    (mine / "letter.txt").unlink()
    for name, listed in (("letter.gguf", "letter.gguf"), ("weights.bin", "gone.onnx")):
        description["graphs"][0]["file"] = listed
        (mine / BUNDLE_FILE).write_text(json.dumps(description))
        shutil.copy(gguf, mine / name)
        with pytest.raises(StorageFailed):
            open_model(mine / name, folder=mine)
        assert (mine / name).read_bytes() == gguf.read_bytes()
        (mine / name).unlink()
    (tmp_path / "empty").mkdir()
    assert open_model(gguf, folder=tmp_path / "empty").folder == str(tmp_path / "empty")


def test_a_bundle_is_not_imported_again(bundles: Path, gguf: Path, tmp_path: Path) -> None:
    bundle = open_model(gguf)
    assert open_model(bundle.folder) == bundle
    with pytest.raises(InvalidInput, match=r"is imported already.*copy the folder"):
        open_model(bundle.folder, folder=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_process_may_be_quicker(bundles: Path, gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = gguf_import.import_gguf
    inner: list[Bundle] = []

    def slow(source: Path, folder: Path, **options: Any) -> Bundle:
        monkeypatch.setattr(gguf_import, "import_gguf", real)
        inner.append(open_model(source))
        (Path(inner[0].folder) / "mark").touch()
        return real(source, folder, **options)

    monkeypatch.setattr(gguf_import, "import_gguf", slow)
    assert open_model(gguf) == inner[0]
    assert (Path(inner[0].folder) / "mark").exists()  # it may be in use: it was not replaced
    assert len(list(bundles.iterdir())) == 1


@pytest.mark.parametrize("seed", range(6))
def test_a_full_disk_leaves_nothing_and_a_rerun_works(
    bundles: Path, gguf: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Writing fails at a random one of all the places where something is written."""
    expected = listing(Path(open_model(gguf, folder=bundles / "whole").folder))
    calls, limit = 0, 10**9
    real_rows, real_write = weights.WeightsFile.write, Path.write_bytes

    def count() -> None:
        nonlocal calls
        calls += 1
        if calls == limit:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write_rows(self: weights.WeightsFile, span: weights.Span, row: int, array: np.ndarray) -> None:
        count()
        real_rows(self, span, row, array)

    def write_bytes(self: Path, data: bytes) -> int:
        if bundles in self.parents:
            real_write(self, data[: len(data) // 2])
            count()
        return real_write(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(weights.WeightsFile, "write", write_rows)
        patch.setattr(Path, "write_bytes", write_bytes)
        open_model(gguf, folder=bundles / "counted")
        calls, limit = 0, random.Random(seed).randint(1, calls) if seed else calls  # the description is written last
        with pytest.raises(StorageFailed) as caught:
            open_model(gguf)
        assert "\n" not in str(caught.value)
    assert {path.name for path in bundles.iterdir()} == {"whole", "counted"}
    assert listing(Path(open_model(gguf).folder)) == expected


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
def test_a_really_full_disk(gguf: Path, tmp_path: Path) -> None:
    """A limit on a file's size makes the system itself refuse the write of the weights."""
    code = (
        "import resource, signal, sys; from trisect.llm.importing.model_import import open_model\n"
        "from trisect.runtime.errors import StorageFailed\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (60000, 60000))\n"
        "try: open_model(sys.argv[1])\n"
        "except StorageFailed as error: print(error)"
    )
    environment = {**os.environ, "TRISECT_BUNDLES": str(tmp_path / "bundles")}
    command = [sys.executable, "-c", code, str(gguf)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert "cannot write" in done.stdout, done.stderr
    assert "File too large" in done.stdout
    assert list((tmp_path / "bundles").iterdir()) == []


def test_an_error_of_the_system_is_reported_as_a_full_disk() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(OSError) as caught, weights.WeightsFile(Path("/dev/full")) as file:
        file.add(np.zeros((1000, 1000), np.float32))
    assert caught.value.errno == errno.ENOSPC


def test_an_interrupted_import_leaves_nothing(bundles: Path, gguf: Path) -> None:
    def interrupt(done: int, total: int, what: str) -> None:
        if 2 * done > total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_model(gguf, progress=interrupt)
    assert list(bundles.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(StorageFailed, match="cannot be written"):
        open_model(gguf, folder=tmp_path / "locked" / "bundle")


def test_a_folder_that_cannot_be_made(gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFailed, match="cannot be written"):
        open_model(gguf, folder=tmp_path / "file" / "bundle")


@pytest.mark.parametrize("keep", [0, 3, 4, 100, 0.3, 0.9, 0.9999])
def test_a_truncated_file_is_rejected(bundles: Path, gguf: Path, keep: float) -> None:
    content = gguf.read_bytes()
    gguf.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(InvalidModel) as caught:
        open_model(gguf)
    assert "tiny.gguf" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not bundles.exists() or list(bundles.iterdir()) == []


def test_files_that_are_no_model(bundles: Path, tmp_path: Path) -> None:
    for name, content in (
        ("a.gguf", b"not a model at all" * 99),
        ("b.txt", b"hello"),
        ("c.gguf", b"GGUF" + b"\xff" * 99),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(TrisectError) as caught:
            open_model(tmp_path / name)
        assert name in str(caught.value)
        assert isinstance(caught.value, (InvalidModel, UnsupportedModel))
    (tmp_path / "one.onnx").write_bytes(b"")
    with pytest.raises(UnsupportedModel, match="single ONNX file"):
        open_model(tmp_path / "one.onnx")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InvalidModel, match="holds no language model"):
        open_model(tmp_path / "folder")
    assert not bundles.exists() or list(bundles.iterdir()) == []


@pytest.mark.parametrize("name", ["nowhere.gguf", "/nowhere/at/all", "./a/b/c", "x" * 5000, "a\0b", "", "~"])
def test_names_of_nothing(bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidModel) as caught:
        open_model(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"metadata": {"general.architecture": "mamba"}}, "mamba"),
        ({"metadata": {"llama.expert_count": 8}}, "mixture of experts"),
        ({"metadata": {"llama.rope.scaling.type": "dynamic"}}, "dynamic"),
    ],
)
def test_unsupported_features_are_named(bundles: Path, tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    path = write_tiny_gguf(tmp_path / "a.gguf", **changes)
    with pytest.raises(UnsupportedModel, match=named):
        open_model(path)


def test_an_unknown_quantisation_is_named(bundles: Path, tmp_path: Path) -> None:
    from gguf import GGMLQuantizationType, GGUFWriter

    writer = GGUFWriter(tmp_path / "k.gguf", "llama")
    writer.add_tensor("token_embd.weight", np.zeros((4, 66), np.uint8), raw_dtype=GGMLQuantizationType.IQ2_XXS)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UnsupportedModel, match="IQ2_XXS"):
        open_model(tmp_path / "k.gguf")


def test_the_description_holds_no_path_of_this_machine(bundles: Path, gguf: Path, tmp_path: Path) -> None:
    bundle = open_model(gguf)
    text = (Path(bundle.folder) / BUNDLE_FILE).read_text()
    assert str(tmp_path) not in text
    assert json.loads(text)["source"] == "tiny.gguf"


def test_a_bundle_may_be_moved(bundles: Path, gguf: Path, tmp_path: Path) -> None:
    bundle = open_model(gguf)
    moved = Path(bundle.folder).rename(tmp_path / "moved")
    again = open_model(moved)
    assert again == replace(bundle, folder=str(moved))
    runner = kit.in_place(again)
    runner.reset(kit.cache_for(again))
    assert np.isfinite(runner.forward(np.array([1, 2]), 0)).all()


@pytest.mark.skipif(sys.platform != "linux", reason="names are not bytes")
def test_models_of_any_name_are_imported(bundles: Path, gguf: Path) -> None:
    for name in (b"m\xff\xe9.gguf", b"x" * 250 + b".gguf", b"-o.gguf"):
        path = gguf.with_name(os.fsdecode(name))
        shutil.copy(gguf, path)
        assert Path(open_model(path).folder).parent == bundles
