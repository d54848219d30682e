"""A recorded step of decode is replayed with other tokens, and its scores are those of these tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.llm import tiny_llms as kit
from tests.llm.tiny_llms import TinyLlm, TinyLlms
from trisect.llm.running.runners.capture_graph import recordable_graph
from trisect.llm.running.runners.device_runner import DeviceRunner
from trisect.llm.running.runners.runner_loading import load_runner
from trisect.runtime import engines
from trisect.runtime.engines.base import LoadOptions


@pytest.fixture(scope="module")
def tiny(tiny_llms: TinyLlms) -> TinyLlm:
    return tiny_llms.get("llama", "F32", "float32", metadata={"llama.context_length": 4096})


@pytest.mark.slow(60)  # the software driver compiles the model's shaders
def test_replays_give_the_scores_of_their_tokens(tiny: TinyLlm) -> None:
    gpu = next((device for device in engines.discover() if device.id == "gpu:webgpu"), None)
    if gpu is None:
        pytest.skip("no gpu:webgpu here: it wants onnxruntime-ep-webgpu and a Vulkan driver, Mesa's lavapipe will do")
    assert engines.decoder_support(gpu).captures_steps
    ids = kit.tokens(30)
    expected = tiny.oracle.logits(ids.tolist())
    runner = load_runner(tiny.bundle, gpu, precision="float32", decodes=True, exports_cache=False)
    assert isinstance(runner, DeviceRunner)
    runner.reset(kit.cache_for(tiny.bundle))
    scores = [runner.forward(ids[:5], 0).copy()]
    for at in range(5, 12):
        scores.append(runner.forward(ids[at : at + 1], at).copy())
    scores.append(runner.forward(ids[12:20], 12).copy())  # a run that is not recorded, between two that are
    for at in range(20, 25):
        scores.append(runner.forward(ids[at : at + 1], at).copy())
    runner.cache.reserve(300, 4096)  # other buffers need another recording
    for at in range(25, 30):
        scores.append(runner.forward(ids[at : at + 1], at).copy())
    np.testing.assert_allclose(np.stack(scores), expected[[*range(4, 12), 19, *range(20, 30)]], rtol=0, atol=1e-4)
    assert np.ptp(np.stack(scores), axis=0).max() > 1  # they do change
    runner.close()


def test_the_last_reshape_is_left_out_and_no_score_changes(tiny: TinyLlm) -> None:
    path = Path(tiny.bundle.folder) / "in_place.onnx"
    data = recordable_graph(path.read_bytes())
    assert data is not None
    assert onnx.load_from_string(data).graph.output[0].name == "logits"
    cache = tiny.bundle.new_cache(256)
    feeds = {
        "input_ids": kit.tokens(7)[None], "seqlens_k": np.array([6], np.int32),
        "total_sequence_length": np.array(7, np.int32), **cache.buffers,
    }  # fmt: skip
    scores = []
    for model in (path, data):
        options = LoadOptions(threads=1, external_data_folder=tiny.bundle.folder if model is data else None)
        module = engines.load(model, kit.device("cpu:ort"), options)
        scores.append(module.run(feeds)["logits"])
        module.close()
    assert scores[1].shape == (1, tiny.bundle.vocab)
    np.testing.assert_array_equal(scores[0][0], scores[1])


def test_a_graph_that_ends_with_a_copy_is_not_recorded(tiny: TinyLlm) -> None:
    model = onnx.load(Path(tiny.bundle.folder) / "in_place.onnx", load_external_data=False)
    last = next(node for node in model.graph.node if "logits" in node.output)
    last.output[0] = "before"
    model.graph.node.append(helper.make_node("Identity", ["before"], ["logits"], "last"))
    assert recordable_graph(model.SerializeToString()) is None
