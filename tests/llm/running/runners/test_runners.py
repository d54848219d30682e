"""A cache that one runner filled is continued by any other; how tokens are cut into runs does not matter."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.llm import tiny_llms as kit
from tests.llm.tiny_llms import TinyLlms
from trisect.llm.bundle import PhaseGraph
from trisect.llm.running.kv_layer import KvChoice
from trisect.llm.running.runners.in_place_runner import InPlaceRunner
from trisect.llm.running.runners.runner import Runner
from trisect.llm.running.runners.runner_loading import load_runner
from trisect.runtime.errors import ContextExceeded, EngineFailed, TrisectError

NEW = 24
EXACT = 1e-4
HALF = 0.02
"""Keys and values in float16; seen: 0.003."""


def greedy(runner: Runner, scores: np.ndarray, start: int, count: int = NEW) -> tuple[list[int], np.ndarray]:
    """Tokens that follow some scores, and the scores after each of them."""
    ids, rows = [], []
    for position in range(start, start + count):
        ids.append(int(scores.argmax()))
        scores = runner.forward(np.array(ids[-1:]), position)
        rows.append(scores.copy())
    return ids, np.stack(rows)


@pytest.mark.parametrize("arch", ["llama", "qwen3"])
@pytest.mark.parametrize(("first", "second"), list(itertools.product(kit.KINDS, repeat=2)))
def test_any_runner_continues_from_any_other(tiny_llms: TinyLlms, arch: str, first: str, second: str) -> None:
    tiny = tiny_llms.get(arch, "F32", "float32")
    prompt = kit.tokens(30, seed=5)
    expected = tiny.oracle.greedy(prompt.tolist(), NEW)
    filler, writer = kit.KINDS[first](tiny.bundle, exports_cache=True), kit.KINDS[second](tiny.bundle)
    cache = kit.cache_for(tiny.bundle)
    for _ in range(2):  # the second time finds everything used
        cache.clear()
        filler.reset(cache)
        scores = kit.run_in_parts(filler, prompt, (20, 10))[-1]
        writer.continue_from(cache)
        ids, rows = greedy(writer, scores, len(prompt))
        assert ids == expected
        reference = tiny.oracle.logits([*prompt.tolist(), *ids])[len(prompt) :]
        np.testing.assert_allclose(rows, reference, rtol=0, atol=EXACT)
    filler.close()
    writer.close()


@pytest.mark.parametrize("first", ["in_place_half", "stateful", "growing"])
@pytest.mark.parametrize("second", ["in_place_half", "stateful", "growing"])
def test_a_cache_in_float16_is_handed_over_in_both_directions(tiny_llms: TinyLlms, first: str, second: str) -> None:
    tiny = tiny_llms.get("qwen3", "F32", "float32")
    kinds = kit.KINDS | {"in_place_half": kit.in_place_half}
    prompt = kit.tokens(30, seed=5)
    filler, writer = kinds[first](tiny.bundle, exports_cache=True), kinds[second](tiny.bundle)
    cache = kit.cache_for(tiny.bundle.with_kv_dtype("float16"))
    filler.reset(cache)
    scores = kit.run_in_parts(filler, prompt, (20, 10))[-1]
    assert {buffer.dtype for buffer in cache.buffers.values()} == {np.dtype(np.float16)}
    writer.continue_from(cache)
    ids, rows = greedy(writer, scores, len(prompt))
    reference = tiny.oracle.logits([*prompt.tolist(), *ids])[len(prompt) :]
    np.testing.assert_allclose(rows, reference, rtol=0, atol=HALF)
    filler.close()
    writer.close()


@pytest.mark.parametrize("choice", ["float32", "float16", "bfloat16", "int8"])
def test_an_engine_keeps_the_cache_in_the_chosen_dtype(tiny_llms: TinyLlms, choice: KvChoice) -> None:
    tiny = tiny_llms.get("qwen3", "F32", "float32")
    bundle = tiny.bundle.with_kv_dtype(choice)
    prompt = kit.tokens(30, seed=5)
    filler, runner = kit.growing(tiny.bundle, exports_cache=True), kit.stateful(bundle)
    cache = kit.cache_for(bundle)
    filler.reset(cache)
    scores = kit.run_in_parts(filler, prompt, (20, 10))[-1]
    runner.continue_from(cache)
    ids, rows = greedy(runner, scores, len(prompt))
    assert runner.rewind(40) == 40
    again = kit.run_in_parts(runner, np.array([*prompt, *ids]), (14,), start=40)
    reference = tiny.oracle.logits([*prompt.tolist(), *ids])[len(prompt) :]
    limit = {"float32": EXACT, "float16": HALF}.get(choice, 0.2)
    np.testing.assert_allclose(rows, reference, rtol=0, atol=limit)
    np.testing.assert_allclose(again[-1], reference[-1], rtol=0, atol=limit)
    filler.close()
    runner.close()


@pytest.mark.parametrize("kind", list(kit.KINDS))
def test_chunks_do_not_change_the_scores(tiny_llms: TinyLlms, kind: str) -> None:
    tiny = tiny_llms.get("qwen2", "F32", "float32")
    ids = kit.tokens(40, seed=6)
    runner = kit.KINDS[kind](tiny.bundle)
    result = []
    for parts in ((40,), (1,) * 40, (13, 1, 26), (39, 1)):
        runner.reset(kit.cache_for(tiny.bundle))
        result.append(kit.run_in_parts(runner, ids, parts)[-1])
    for scores in result[1:]:
        np.testing.assert_allclose(scores, result[0], rtol=0, atol=EXACT)
    runner.close()


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("kind", list(kit.KINDS))
def test_a_cache_grows_while_it_is_used(tiny_llms: TinyLlms, kind: str, share: bool) -> None:
    tiny = tiny_llms.get("llama", "F32", "float32", metadata={"llama.context_length": 700})
    ids = kit.tokens(530, seed=7)
    cache = kit.cache_for(tiny.bundle, capacity=4)
    runner = kit.KINDS[kind](tiny.bundle, exports_cache=share)
    runner.reset(cache)
    kit.run_in_parts(runner, ids, (250, *[1] * 8))  # passes 256 in steps of one token
    scores = kit.run_in_parts(runner, ids, (258, 14), start=258)[-1]  # and 512 with many
    np.testing.assert_allclose(scores, tiny.oracle.logits(ids.tolist())[-1], rtol=0, atol=EXACT)
    if share or kind == "in_place":
        assert (cache.length, cache.capacity) == (530, 700)
    runner.close()


def test_reset_forgets(tiny_llms: TinyLlms) -> None:
    tiny = tiny_llms.get("llama", "F32", "float32")
    ids = kit.tokens(9, seed=8)
    for kind in kit.KINDS.values():
        runner = kind(tiny.bundle)
        cache = kit.cache_for(tiny.bundle)
        runner.reset(cache)
        first = runner.forward(ids, 0).copy()
        runner.forward(ids, 9)
        cache.clear()
        runner.reset(cache)
        np.testing.assert_allclose(runner.forward(ids, 0), first, rtol=0, atol=1e-6)
        runner.close()


def test_in_place_rejects_more_than_the_context_and_works_without_copies(tiny_llms: TinyLlms) -> None:
    tiny = tiny_llms.get("llama", "F32", "float32")
    runner = kit.in_place(tiny.bundle)
    with pytest.raises(EngineFailed, match="no cache"):
        runner.forward(np.array([1]), 0)
    cache = kit.cache_for(tiny.bundle, capacity=256)
    runner.reset(cache)
    runner.forward(kit.tokens(256), 0)
    buffer = cache.buffers["past_key_values.0.key"]
    assert buffer.any()
    with pytest.raises(ContextExceeded, match="257 tokens"):
        runner.forward(np.array([1]), 256)
    assert runner.handover_s == 0
    runner.close()


def test_state_is_read_where_a_graph_has_no_fresh_outputs(tiny_llms: TinyLlms, tmp_path: Path) -> None:
    tiny = tiny_llms.get("llama", "F32", "float32")
    model = onnx.load(Path(tiny.bundle.folder) / "standard.onnx", load_external_data=False)
    outputs = [value for value in model.graph.output if not value.name.startswith("fresh.")]
    del model.graph.output[:]
    model.graph.output.extend(outputs)
    onnx.save(model, tmp_path / "standard.onnx")
    (tmp_path / "weights.bin").hardlink_to(Path(tiny.bundle.folder) / "weights.bin")
    bundle = replace(tiny.bundle, folder=str(tmp_path), graphs=(PhaseGraph("standard.onnx", cache="grown"),))
    runner, writer = kit.stateful(bundle, exports_cache=True), kit.in_place(tiny.bundle)
    cache = kit.cache_for(bundle)
    runner.reset(cache)
    prompt = kit.tokens(30, seed=5)
    scores = kit.run_in_parts(runner, prompt, (20, 10))[-1]
    writer.continue_from(cache)
    assert greedy(writer, scores, 30)[0] == tiny.oracle.greedy(prompt.tolist(), NEW)


def test_only_onnx_runtime_extends_a_cache_in_place(tiny_llms: TinyLlms) -> None:
    bundle = replace(tiny_llms.get().bundle, graphs=(PhaseGraph("in_place.onnx", cache="in-place"),))
    assert isinstance(kit.in_place(bundle), InPlaceRunner)
    with pytest.raises(EngineFailed, match=r"cpu:ort keeps the KV cache of tiny llama in float32, not in int8"):
        kit.in_place(bundle.with_kv_dtype("int8"))
    with pytest.raises(EngineFailed, match="cpu:openvino cannot extend a KV cache in place"):
        load_runner(bundle, kit.device("cpu:openvino"), threads=1, decodes=True, exports_cache=False)


@pytest.mark.parametrize("name", ["cpu:ort", "cpu:openvino"])
@pytest.mark.parametrize("damage", ["weights gone", "weights cut", "graph cut"])
def test_damaged_files_are_one_line(tmp_path: Path, name: str, damage: str) -> None:
    bundle = TinyLlms(tmp_path).get("llama", "Q4_1").bundle
    folder = Path(bundle.folder)
    if damage == "weights gone":
        (folder / "weights.bin").unlink()
    elif damage == "weights cut":
        (folder / "weights.bin").write_bytes((folder / "weights.bin").read_bytes()[:5000])
    else:
        for file in folder.glob("*.onnx"):
            file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(TrisectError) as caught:
        load_runner(bundle, kit.device(name), threads=1, decodes=True, exports_cache=False)
    assert "\n" not in str(caught.value)
