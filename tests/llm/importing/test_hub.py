"""Models of the Hugging Face hub: which files are downloaded, and the errors. Nothing is sent over the network."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from tests.llm.llm_folder_factory import write_genai_folder, write_optimum_folder
from trisect.llm.importing.hub import choose_files, fetch_from_hub, looks_like_hub_id
from trisect.llm.importing.model_import import open_model
from trisect.runtime.errors import InvalidModel, StorageFailed, TrisectError, UnsupportedModel
from trisect.runtime.progress import no_progress

TEXTS = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]


class FakeHub:
    """A hub of one repository, in place of the real functions."""

    def __init__(self, patch: pytest.MonkeyPatch, files: list[str], folder: Path) -> None:
        self.files = files
        self.folder = folder
        self.asked: list[dict[str, Any]] = []
        self.fails: Exception | None = None
        patch.setattr(huggingface_hub.HfApi, "model_info", self.model_info)
        patch.setattr(huggingface_hub, "snapshot_download", self.snapshot_download)
        patch.setattr(huggingface_hub, "hf_hub_download", lambda model, name, **_: str(folder / name))

    def model_info(self, model: str, **settings: Any) -> SimpleNamespace:
        self.asked.append(settings)
        if self.fails is not None:
            raise self.fails
        return SimpleNamespace(sha="0" * 40, siblings=[SimpleNamespace(rfilename=name) for name in self.files])

    def snapshot_download(self, model: str, *, local_files_only: bool = False, **settings: Any) -> str:
        if local_files_only:
            if not self.folder.is_dir():
                raise FileNotFoundError("no cached snapshot")
            return str(self.folder)
        self.asked.append(settings)
        bar = settings["tqdm_class"](total=200, unit="B")
        bar.update(50)
        bar.update(150)
        settings["tqdm_class"](total=3, unit="it").update(1)
        return str(self.folder)


def response(error: type[Any], status: int) -> Exception:
    request = SimpleNamespace(method="GET", url="http://localhost/api/models/a/b")
    made: Exception = error("refused", response=SimpleNamespace(status_code=status, headers={}, request=request))
    return made


@pytest.mark.parametrize(
    ("text", "is_id"),
    [
        ("HuggingFaceTB/SmolLM2-135M-Instruct", True),
        ("a/b", True),
        ("a/b/c", False),
        ("a", False),
        ("/a/b", False),
        ("../b", False),
        ("a/..", False),
        ("~/b", False),
        ("a/b.gguf", False),
        ("a/B.GGUF", False),
        ("a/model.onnx", False),
        ("a\\b", False),
        ("C:/b", False),
        ("a/b\n", False),
        ("a/" + "b" * 100, False),
        ("", False),
    ],
)
def test_ids(text: str, is_id: bool) -> None:
    assert looks_like_hub_id(text) is is_id


def test_only_the_files_that_an_import_reads_are_downloaded() -> None:
    files = [*TEXTS, "README.md", "model.safetensors", "onnx/model.onnx", "onnx/model.onnx_data", "vocab.json"]
    files += ["onnx/model.onnx_data_1", "onnx/model_q4.onnx", "onnx/model_fp16.onnx_data", "chat_template.jinja"]
    folder, wanted = choose_files("a/b", files)
    data = ["onnx/model.onnx", "onnx/model.onnx_data", "onnx/model.onnx_data_1"]
    assert folder == ""
    assert sorted(wanted) == sorted([*TEXTS, *data, "chat_template.jinja"])


def test_of_several_builds_the_one_for_the_cpu_is_downloaded() -> None:
    builds = [f"{device}/int4/{name}" for device in ("cuda", "cpu_and_mobile", "directml") for name in
              ("genai_config.json", "model.onnx", "model.onnx.data", "tokenizer.json")]  # fmt: skip
    folder, wanted = choose_files("a/b", [*builds, "config.json"])
    assert folder == "cpu_and_mobile/int4"
    assert sorted(wanted) == sorted(name for name in builds if name.startswith("cpu"))


def test_without_a_graph_the_weights_are_downloaded() -> None:
    weights = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    folder, wanted = choose_files("a/b", [*TEXTS, *weights, "original/consolidated.safetensors", "README.md"])
    assert folder == ""
    assert sorted(wanted) == sorted([*TEXTS, *weights])


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (["m-Q2_K.gguf", "m-Q4_K_M.gguf", "m-q8_0.gguf", "config.json"], r"hf download a/b m-Q4_K_M.gguf"),
        (["m-Q2_K.gguf", "m-q8_0.gguf", "mmproj-Q4_K_M.gguf"], r"hf download a/b m-q8_0.gguf"),
        (["z.gguf", "b.gguf"], "hf download a/b b.gguf"),
        (["config.json", "model.safetensors"], "optimum"),
        (["onnx/model.onnx"], "no ONNX decoder"),
        ([], "no ONNX decoder"),
    ],
)
def test_repositories_without_a_model_for_us(files: list[str], says: str) -> None:
    with pytest.raises(UnsupportedModel, match=says):
        choose_files("a/b", files)


def test_fetching(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    hub = FakeHub(monkeypatch, [*TEXTS, "onnx/model.onnx"], tmp_path)
    messages: list[tuple[float, str]] = []
    assert fetch_from_hub("a/b", lambda done, total, text: messages.append((done / total, text))) == tmp_path
    info, download = hub.asked
    assert info["timeout"] > 0
    assert download["etag_timeout"] > 0
    assert download["allow_patterns"] == sorted([*TEXTS, "onnx/model.onnx"])
    assert [done for done, what in messages if what == "downloading"] == [0.25, 1.0]
    assert messages[-1] == (1.0, "downloaded a/b")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_type": "qwen2_moe"}, "'qwen2_moe' is not supported, since it has experts"),
        ({"quantization_config": {"bits": 4}}, "already quantised"),
        ({"hidden_act": "relu"}, "activation 'relu'"),
    ],
)
def test_weights_are_not_downloaded_of_a_model_that_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], reason: str
) -> None:
    hub = FakeHub(monkeypatch, [*TEXTS, "model.safetensors"], tmp_path)
    sizes = {"vocab_size": 9, "num_attention_heads": 1, "hidden_size": 8}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **sizes}))
    fetch_from_hub("a/b", no_progress)
    downloads = len(hub.asked)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **sizes, **changes}))
    with pytest.raises(UnsupportedModel, match=reason):
        fetch_from_hub("a/b", no_progress)
    assert len(hub.asked) == downloads + 1  # the list of its files


def test_a_model_of_the_hub_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRISECT_BUNDLES", str(tmp_path / "bundles"))
    # As the hub's cache keeps it: files by content, a snapshot of links to them.
    repository = tmp_path / "models--owner--tiny-llm"
    snapshot, blobs = repository / "snapshots" / ("0" * 40), repository / "blobs"
    write_genai_folder(snapshot / "cpu")
    blobs.mkdir()
    for number, file in enumerate(sorted((snapshot / "cpu").iterdir())):
        file.rename(blobs / str(number))
        file.symlink_to(Path("../../../blobs", str(number)))
    names = [f"cpu/{file.name}" for file in (snapshot / "cpu").iterdir()]
    FakeHub(monkeypatch, names, snapshot)
    bundle = open_model("owner/tiny-llm")
    assert bundle.name == "tiny-llm"
    assert any(data.samefile(blob) for data in Path(bundle.folder).glob("data_*") for blob in blobs.iterdir())


@pytest.mark.parametrize(
    ("failure", "error", "says"),
    [
        (response(RepositoryNotFoundError, 404), InvalidModel, "neither a path a/b nor a model"),
        (response(GatedRepoError, 403), InvalidModel, "accepted its terms"),
        (TimeoutError("timed out"), InvalidModel, "not downloaded before.*timed out"),
        (ConnectionError("no route\nto host"), InvalidModel, r"\(no route to host\)"),
        (ValueError(), InvalidModel, r"\(ValueError\)"),
        (OSError(errno.ENOSPC, "No space left on device"), StorageFailed, "disk is full"),
    ],
)
def test_a_hub_that_does_not_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception, error: type[TrisectError], says: str
) -> None:
    FakeHub(monkeypatch, TEXTS, tmp_path / "nowhere").fails = failure
    with pytest.raises(error, match=says) as caught:
        fetch_from_hub("a/b", no_progress)
    assert caught.value.remedy
    assert "\n" not in str(caught.value)


def test_a_downloaded_model_is_used_without_a_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_optimum_folder(tmp_path / "snapshot", file="onnx/model.onnx")
    FakeHub(monkeypatch, [], tmp_path / "snapshot").fails = ConnectionError("no route")
    assert fetch_from_hub("a/b", no_progress) == tmp_path / "snapshot"


def test_half_a_snapshot_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_optimum_folder(tmp_path, file="onnx/model.onnx")
    (tmp_path / "onnx" / "model.onnx").unlink()
    FakeHub(monkeypatch, [], tmp_path).fails = ConnectionError("no route")
    with pytest.raises(InvalidModel, match="not downloaded before"):
        fetch_from_hub("a/b", no_progress)


def test_the_real_cache_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the hub's own library, without a connection: a snapshot of which only some files were wanted is found."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InvalidModel, match="not downloaded before"):
        fetch_from_hub("a/b", no_progress)
    revision = "1" * 40
    snapshot = tmp_path / "models--a--b" / "snapshots" / revision
    write_optimum_folder(snapshot)
    (tmp_path / "models--a--b" / "refs").mkdir()
    (tmp_path / "models--a--b" / "refs" / "main").write_text(revision)
    # What the library remembers of the repository names files that were never fetched.
    listing = {name: {"size": 1, "blob_id": "2" * 40} for name in ("model.onnx", "model.safetensors")}
    (tmp_path / "models--a--b" / "trees").mkdir()
    (tmp_path / "models--a--b" / "trees" / f"{revision}.json").write_text(
        json.dumps({"format_version": 1, "files": listing})
    )
    assert fetch_from_hub("a/b", no_progress) == snapshot
