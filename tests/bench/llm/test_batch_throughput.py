"""Batches: every sequence in one gets the scores that it gets alone, and what does not is left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.llm.gguf_factory import write_tiny_gguf
from tests.llm.llm_folder_factory import write_genai_folder, write_optimum_folder
from trisect.bench.llm import batch_throughput as batching
from trisect.bench.llm.batch_graph import for_batch
from trisect.bench.llm.batch_throughput import bench_batches
from trisect.llm.bundle import Bundle
from trisect.llm.importing.model_import import open_model
from trisect.runtime.device import Device, select
from trisect.runtime.engines import find_hardware
from trisect.runtime.errors import EngineFailed, InvalidInput, UnsupportedModel

SETS = {
    "llama": lambda folder: write_tiny_gguf(folder / "m.gguf", hidden=128, heads=4),
    "qwen3": lambda folder: write_tiny_gguf(folder / "m.gguf", arch="qwen3", hidden=128, heads=4),
    "genai": lambda folder: write_genai_folder(folder / "m"),
    "optimum": lambda folder: write_optimum_folder(folder / "m"),
}


@pytest.fixture(scope="module", params=SETS)
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("batching")
    return open_model(SETS[request.param](folder), folder=folder / "bundle")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(params=["cpu:ort", "cpu:openvino"])
def device(request: pytest.FixtureRequest) -> Device:
    return select(request.param, find_hardware("auto"))[0]


def takes_batches(bundle: Bundle, device: Device) -> bool:
    """OpenVINO converts GroupQueryAttention for one sequence only, and says so."""
    graph = onnx.load(Path(bundle.folder) / bundle.graph_for(device).file, load_external_data=False).graph
    return device.engine != "openvino" or all(node.op_type != "GroupQueryAttention" for node in graph.node)


def test_sequences_side_by_side_get_the_scores_that_each_gets_alone(bundle: Bundle, device: Device) -> None:
    """Of a prompt read at once, and of tokens after it; a sequence's neighbours change nothing."""
    if not takes_batches(bundle, device):
        pytest.skip("OpenVINO's GroupQueryAttention is for one sequence")
    ids = np.random.default_rng(5).integers(0, bundle.vocab, (3, 9))
    alone = batching.single_scores(bundle, device, ids, 1)
    assert np.abs(alone[0] - alone[1]).max() > 0.1
    with batching.load_batch(bundle, device, 3, 32, 1) as rows:
        for order in ([0, 1, 2], [2, 0, 0]):
            rows.reset()
            rows.forward(ids[order, :5], 0)
            for at in range(5, 9):
                result = rows.forward(ids[order, at : at + 1], at)
            off = np.sqrt(np.square(result - alone[order]).mean(axis=1)) / alone.std()
            assert off.max() < 0.15


def test_every_size_is_measured_on_every_device(bundle: Bundle, tmp_path: Path) -> None:
    notes: list[str] = []
    devices = select("cpu:ort,cpu:openvino", find_hardware("auto"))
    batches = bench_batches(bundle, devices, [1, 3], prompt_tokens=12, rounds=2, threads=1, notes=notes)
    able = {(d.id, n) for d in devices for n in (1, 3) if n == 1 or takes_batches(bundle, d)}
    assert {(p.device, p.batch) for p in batches} == able
    assert len(notes) == 4 - len(able)
    assert all("a batch of 3 on cpu:openvino is left out: " in note and "batch_size" in note for note in notes)
    assert all(min(p.prefill_tok_s, p.decode_tok_s) > 0 and p.prompt_tokens == 12 for p in batches)
    assert list((tmp_path / "cache" / "trisect").iterdir()) == []


def test_a_batch_that_computes_something_else_is_left_out(
    bundle: Bundle, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Mixed:
        """Gives each sequence the scores of its neighbour."""

        def forward(self, ids: np.ndarray, start: int) -> np.ndarray:
            return batching.single_scores(bundle, device, short, 1)[::-1] if start else np.zeros(1)

        def reset(self) -> None:
            pass

    short = np.random.default_rng(1).integers(0, bundle.vocab, (2, 8))
    alone = batching.single_scores(bundle, device, short, 1)
    with pytest.raises(EngineFailed, match="other scores than alone"):
        batching.check_scores(Mixed(), short, alone)  # type: ignore[arg-type]


def test_bad_sizes_and_graphs(bundle: Bundle) -> None:
    with pytest.raises(InvalidInput, match="a batch of 0"):
        bench_batches(bundle, [], [2, 0], prompt_tokens=4, notes=[])
    assert bench_batches(bundle, [], [], prompt_tokens=4, notes=[]) == ()
    model = onnx.load(Path(bundle.folder) / bundle.graphs[0].file, load_external_data=False)
    for_batch(model, 2)
    with pytest.raises(UnsupportedModel, match="not for one sequence"):
        for_batch(model, 2)
