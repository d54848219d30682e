"""A stream with a guard ends at the first wrong item that is compared, with item, tensor, segment and device."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trisect.runtime.checks.stream_guard import GuardOptions
from trisect.runtime.errors import EngineFailed, InvalidInput, UnsupportedModel
from trisect.runtime.plans.plan import Plan
from trisect.runtime.sessions.session import Session
from trisect.runtime.tensors.tensor_spec import TensorSpec

WRONG_ABOVE_100 = """g (float[n,3] a) => (float[n,3] l) {
    limit = Constant<value_float = 100.0>()  cut = Min(a, limit)  l = Add(a, cut)
}"""


def items(*values: float) -> list[dict[str, np.ndarray]]:
    return [{"x": np.full((1, 3), value, np.float32)} for value in values]


@pytest.fixture
def guarded(diamond: Plan, whole: Path) -> Plan:
    return replace(diamond, model_sha256=hashlib.sha256(whole.read_bytes()).hexdigest())


def spoil(plan: Plan, model: Any) -> None:
    (Path(plan.folder) / plan.segments[1].file).write_bytes(model(WRONG_ABOVE_100))


def test_right_items_pass(guarded: Plan, whole: Path) -> None:
    with Session(guarded, guard_every=GuardOptions(2, whole)) as session:
        outputs = list(session.stream(items(1, 2, 3, 4, 5)))
        assert [output["y"][0, 0] for output in outputs] == [4, 12, 24, 40, 60]
        assert len(list(session.stream(items(1, 2, 3), micro_batch=2))) == 3


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_a_wrong_item_ends_the_stream(guarded: Plan, whole: Path, model: Any, executor: str) -> None:
    spoil(guarded, model)
    with Session(guarded, executor, guard_every=GuardOptions(2, whole)) as session:
        assert len(list(session.stream(items(1, 50)))) == 2  # the wrong one is not compared
        with pytest.raises(
            EngineFailed, match=r"item 2 of the stream is wrong: 'y' is off by 2400 at index 0,0"
        ) as error:
            list(session.stream(items(1, 1, 50, 1), on_error="skip"))
    assert error.value.segment == 1
    assert error.value.device == guarded.segments[1].device
    assert f"comes from segment 1 on {guarded.segments[1].device}" in error.value.message


def test_a_wrong_last_item_is_reported_at_the_end(guarded: Plan, whole: Path, model: Any) -> None:
    spoil(guarded, model)
    with Session(guarded, guard_every=GuardOptions(1, whole)) as session:
        stream = session.stream(items(1, 50))
        assert next(stream)["y"][0, 0] == 4
        with pytest.raises(EngineFailed, match="item 1 of the stream"):
            list(stream)


def test_an_asynchronous_stream_is_guarded(guarded: Plan, whole: Path, model: Any) -> None:
    spoil(guarded, model)

    async def consume() -> list[Any]:
        with Session(guarded, guard_every=GuardOptions(1, whole)) as session:
            return [outputs async for outputs in session.astream(items(1, 50))]

    with pytest.raises(EngineFailed, match="item 1 of the stream"):
        asyncio.run(consume())


def test_what_cannot_be_guarded_is_refused(guarded: Plan, whole: Path, tmp_path: Path, make_plan: Any) -> None:
    with pytest.raises(InvalidInput, match="guard_every is 0"):
        Session(guarded, guard_every=GuardOptions(0, whole))
    with pytest.raises(InvalidInput, match="another hash"):
        Session(replace(guarded, model_sha256="0"), guard_every=GuardOptions(1, whole))
    with pytest.raises(InvalidInput, match="--model"):
        Session(guarded, guard_every=1)


def test_random_numbers_cannot_be_compared(make_plan: Any, model: Any, tmp_path: Path) -> None:
    text = "g (float[n,3] x) => (float[n,3] y) { r = RandomNormalLike(x)  y = Add(x, r) }"
    path = tmp_path / "random.onnx"
    path.write_bytes(model(text))
    spec = TensorSpec("x", "float32", ("n", 3))
    plan = make_plan([("cpu:ort", text)], [spec], [replace(spec, name="y")])
    plan = replace(plan, model_sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(UnsupportedModel, match="RandomNormalLike gives other numbers in each run"):
        Session(plan, guard_every=GuardOptions(1, path))
