"""All pairs of devices are compared with the CPU in float32, and steps are timed for each capacity."""

from __future__ import annotations

from pathlib import Path

from tests.llm import tiny_llms as kit
from tests.llm.gguf_factory import write_tiny_gguf
from trisect.bench.llm.device_pairs import compare_pairs, time_steps
from trisect.llm.generate import open_bundle
from trisect.runtime.progress import no_progress


def test_pairs_agree_and_hand_over_the_rows_of_the_prompt(tmp_path: Path) -> None:
    path = str(write_tiny_gguf(tmp_path / "tiny.gguf", quant="Q8_0"))
    devices = ("cpu:ort", "cpu:openvino")
    pairs = compare_pairs(
        path, ",".join(devices), prompt_tokens=20, new_tokens=6, precision="float32", progress=no_progress
    )
    assert [(pair.prefill, pair.decode) for pair in pairs] == [(a, b) for a in devices for b in devices]
    for pair in pairs:
        assert pair.mean_kl <= pair.worst_kl < 1e-9
        assert (pair.same_tokens, pair.positions) == (1.0, 7)
        is_split = pair.prefill != pair.decode
        assert pair.kv_bytes == (20 * 2 * 2 * 2 * 16 * 4 if is_split else 0)
        # The last token of an answer was never computed; a split may compute the answer again on the prefill device.
        assert pair.cached_tokens in ((20, 23) if is_split else (23,))
    bundle = open_bundle(path, precision="float32")
    steps = time_steps(bundle, kit.device("cpu:ort"), (64, 256), filled=10, steps=4, precision="float32")
    assert [(step.device, step.capacity) for step in steps] == [("cpu:ort", 64), ("cpu:ort", 256)]
