"""A graph that cannot be compiled, or not in time, is replaced by one of fewer tokens, or is one clear error."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.llm import tiny_llms as kit
from tests.llm.tiny_llms import TinyLlm, TinyLlms
from trisect.llm.running.generation import LanguageSession
from trisect.llm.running.runners import compile_limit, static_loading
from trisect.llm.running.runners.runner_loading import load_runner
from trisect.llm.running.runners.static_loading import FixedShapes
from trisect.runtime import engines
from trisect.runtime.device import Device
from trisect.runtime.engines.base import LoadOptions
from trisect.runtime.engines.common.engine_errors import engine_error
from trisect.runtime.errors import ContextExceeded, EngineFailed, InvalidInput

NPUW = "npu:npuw"
IDS = kit.tokens(45)
Refuse = Callable[..., list[int]]


@pytest.fixture(scope="module")
def npu() -> Device:
    named = [device for device in engines._inventory().named_devices if device.id == NPUW]
    if not named:
        pytest.skip("OpenVINO's NPU plugin is not installed")
    return named[0]


@pytest.fixture(scope="module")
def tiny(tiny_llms: TinyLlms) -> TinyLlm:
    return tiny_llms.get("llama", "F32", "float32")


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Iterator[Refuse]:
    """Lets the device fail to compile graphs of some numbers of tokens, or never end."""
    never = threading.Event()
    monkeypatch.setattr(static_loading, "CHUNK_TOKENS", (32, 8))
    monkeypatch.setattr(compile_limit, "_REPORTED_EVERY_S", 0.02)

    def refuse_(*sizes: int, hangs: bool = False) -> list[int]:
        load, asked = engines.load, []

        def refusing(model: Any, device: Device, options: Any = None) -> Any:
            tokens = options.shapes.get("tokens")
            if tokens is not None:
                asked.append(tokens)
            if tokens in sizes:
                if hangs:
                    never.wait()
                raise engine_error(device, "cannot load static.onnx", f"no tiles for {tokens} tokens")
            return load(model, device, options)

        monkeypatch.setattr(engines, "load", refusing)
        return asked

    yield refuse_
    never.set()


def scores(tiny: TinyLlm, npu: Device, **options: Any) -> np.ndarray:
    settings: dict[str, Any] = {"precision": "float32", "decodes": True, "exports_cache": False} | options
    runner = load_runner(tiny.bundle, npu, **settings)
    runner.reset(kit.cache_for(tiny.bundle))
    rows = kit.run_in_parts(runner, IDS, (40, 1, 1, 1, 1, 1))
    runner.close()
    return rows


@pytest.mark.parametrize(
    ("refused", "asked"),
    [((), [32, 1]), ((32,), [32, 8, 1]), ((32, 8), [32, 8, 1]), ((1,), [32, 1]), ((32, 1), [32, 8, 1])],
)
def test_what_cannot_be_compiled_is_replaced(
    tiny: TinyLlm, npu: Device, refuse: Refuse, refused: tuple[int, ...], asked: list[int]
) -> None:
    tried = refuse(*refused)
    expected = tiny.oracle.logits(IDS.tolist())[39:]
    np.testing.assert_allclose(scores(tiny, npu), expected, rtol=0, atol=1e-4)
    assert tried == asked


def test_no_form_is_one_error(tiny: TinyLlm, npu: Device, refuse: Refuse) -> None:
    refuse(32, 8, 1)
    with pytest.raises(
        EngineFailed, match=r"npu:npuw can compile no form of the model; for 32 tokens: .*no tiles"
    ) as e:
        scores(tiny, npu)
    assert "for 8 tokens: " in str(e.value)
    assert "for 1 token: " in str(e.value)
    assert "\n" not in str(e.value)
    assert e.value.device == NPUW


def test_what_takes_too_long_is_replaced_with_progress(
    tiny: TinyLlm, npu: Device, refuse: Refuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_ = compile_limit.Compiling.load

    def limited(self: Any, path: Any, device: Any, options: Any, what: str) -> Any:
        hangs = options.shapes["tokens"] == 32
        return compile_(compile_limit.Compiling(0.1, self.progress) if hangs else self, path, device, options, what)

    monkeypatch.setattr(compile_limit.Compiling, "load", limited)
    tried, texts = refuse(32, hangs=True), []
    fixed = FixedShapes(60, progress=lambda done, total, text: texts.append(text))
    expected = tiny.oracle.logits(IDS.tolist())[39:]
    np.testing.assert_allclose(scores(tiny, npu, fixed=fixed), expected, rtol=0, atol=1e-4)
    assert tried == [32, 8, 1]
    assert texts[0].startswith("npu:npuw compiles tiny llama for 32 tokens behind 256 slots: 0 s of 0 s at most")


def test_a_result_after_the_limit_is_closed(npu: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    may_end, closed = threading.Event(), threading.Event()

    class Late:
        def close(self) -> None:
            closed.set()

    def load(*_: Any) -> Late:
        may_end.wait()
        return Late()

    monkeypatch.setattr(engines, "load", load)
    monkeypatch.setattr(compile_limit, "_REPORTED_EVERY_S", 0.02)
    with pytest.raises(EngineFailed, match=r"npu:npuw compiles x, which takes longer than the limit.*TRISECT_COMPILE"):
        compile_limit.Compiling(0.01).load(Path("x.onnx"), npu, LoadOptions(), "x")
    may_end.set()
    assert closed.wait(20)


@pytest.mark.parametrize("text", ["0", "-1", "soon", "nan"])
def test_a_limit_that_is_none(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(compile_limit.ENVIRONMENT, text)
    with pytest.raises(InvalidInput, match=f"TRISECT_COMPILE_LIMIT_S is '{text}'; set it to a number of seconds"):
        compile_limit.compile_limit_s()


def test_more_tokens_than_a_device_was_loaded_for(tiny_llms: TinyLlms, npu: Device) -> None:
    tiny = tiny_llms.get("llama", "F32", "float32", metadata={"llama.context_length": 700})
    ids = kit.tokens(300).tolist()
    with LanguageSession(
        tiny.bundle, kit.device("cpu:ort"), npu, precision="float32", fixed=FixedShapes(60)
    ) as session:
        assert session.context_length == 256
        with pytest.raises(ContextExceeded, match="300 tokens, and its devices were loaded for 256"):
            session.generate(ids)
        answer = session.generate(ids[:250], max_new_tokens=20, ignore_eos=True)
    assert (answer.finish, list(answer.token_ids)) == ("context", tiny.oracle.greedy(ids[:250], 7))
    assert (answer.stats.prefill_reality, answer.stats.decode_reality) == ("hardware", "simulated")
