"""One decoding step as a plan over two engines, with each layer's KV cache on the device of its attention."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.llm.tiny_llms import TinyLlms, device, tokens
from tests.partitioner.small_models import FakeCosts, run_whole
from trisect.llm.running.kv_layer import cache_names, present_name
from trisect.partitioner.planning.plan_maker import make_plan
from trisect.partitioner.planning.plan_request import DeviceData, PlanRequest
from trisect.partitioner.problem.constraints import Constraints
from trisect.runtime.sessions.session import Session

PLACED = {
    "layers": {
        r"re:(embedding|(layer|fresh)\.0\.).*": "cpu:ort",
        r"re:((layer|fresh)\.1\.|output).*": "cpu:openvino",
    },
    "op classes": {"class:matvec": "cpu:openvino", "op:Attention": "cpu:ort"},
}


def step(ids: list[int], start: int) -> dict[str, np.ndarray]:
    """The inputs of a run beside the cache: the tokens from `start` on."""
    return {"input_ids": np.array([ids[start:]]), "position_ids": np.array([range(start, len(ids))])}


@pytest.mark.parametrize("by", list(PLACED))
def test_a_split_decoding_step_gives_the_same_tokens(tiny_llms: TinyLlms, by: str, tmp_path: Path) -> None:
    tiny = tiny_llms.get()
    past = cache_names(tiny.bundle.kv_layers)
    state = {name: present_name(name) for name in past}
    devices = (device("cpu:ort"), device("cpu:openvino"))
    ids = [int(token) for token in tokens(6)]
    layers = tiny.bundle.kv_layers
    empty = {name: np.zeros(layer.shape(1, 0), np.float32) for layer in layers for name in layer.names}
    whole = run_whole(Path(tiny.bundle.folder) / "standard.onnx", empty | step(ids[:-1], 0))
    for _ in range(2):
        scores = tiny.oracle.logits(ids)[-1]
        request = PlanRequest(
            Path(tiny.bundle.folder) / "standard.onnx", devices, shapes={"tokens": 1, "past": len(ids) - 1},
            constraints=Constraints(force=PLACED[by], state=state),
        )  # fmt: skip
        plan = make_plan(request, DeviceData(FakeCosts()), tmp_path / "plan")
        assert len(plan.used_devices) == 2
        crossing = {t.tensor for t in plan.transfers if min(t.source, t.target) >= 0}
        assert crossing
        assert crossing.isdisjoint({*state, *state.values()})
        feeds = {name: whole[state[name]] for name in past} | step(ids, len(ids) - 1)
        with Session(plan) as session:
            outputs = session.run(feeds)
        np.testing.assert_allclose(outputs["logits"][0, -1], scores, atol=2e-4)
        whole = outputs
        ids.append(int(outputs["logits"][0, -1].argmax()))
    assert ids[6:] == tiny.oracle.greedy(ids[:6], 2)
