"""A device that fails within an answer is replaced by the other one, which goes on with the same tokens."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.llm import tiny_llms as kit
from tests.llm.tiny_llms import TinyLlm, TinyLlms
from trisect.cli import main
from trisect.llm.running.conversation import Conversation
from trisect.llm.running.generation import LanguageSession
from trisect.runtime import engines
from trisect.runtime.device import Device
from trisect.runtime.engines.common.engine_errors import engine_error
from trisect.runtime.errors import EngineFailed, OutOfMemory

ORT, OPENVINO = "cpu:ort", "cpu:openvino"
PROMPT = kit.tokens(40, seed=3).tolist()
NEW = 20
Break = Callable[..., None]


class _Failing:
    """A module or binding whose runs fail from one of them on."""

    def __init__(self, inner: Any, runs: list[int], error: Exception) -> None:
        self._inner, self._runs, self._error = inner, runs, error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def bind(self, inputs: Any, outputs: Any) -> _Failing:
        return _Failing(self._inner.bind(inputs, outputs), self._runs, self._error)

    def set_state(self, values: Any) -> None:
        self._count()
        self._inner.set_state(values)

    def run(self, *feeds: Any) -> Any:
        self._count()
        return self._inner.run(*feeds)

    def _count(self) -> None:
        self._runs[0] -= 1
        if self._runs[0] < 0:
            raise self._error


@pytest.fixture
def break_device(monkeypatch: pytest.MonkeyPatch) -> Break:
    """Lets all runs of a device fail after some that work, as where it is unplugged or its memory is full."""

    def break_(name: str, runs: int, error: Exception | None = None) -> None:
        device = kit.device(name)
        load, left = engines.load, [runs]

        def failing(model: Any, on: Device, options: Any = None) -> Any:
            module = load(model, on, options)
            if on.id != name:
                return module
            return _Failing(module, left, error or engine_error(device, "could not run", "device removed"))

        monkeypatch.setattr(engines, "load", failing)

    return break_


def session(bundle: Any, prefill: str, decode: str, **options: Any) -> LanguageSession:
    pair = kit.device(prefill), kit.device(decode)
    return LanguageSession(bundle, *pair, threads=1, precision="float32", **options)


@pytest.fixture(scope="module")
def tiny(tiny_llms: TinyLlms) -> TinyLlm:
    return tiny_llms.get("llama", "F32", "float32")


@pytest.mark.parametrize(("lost", "other"), [(ORT, OPENVINO), (OPENVINO, ORT)])
def test_the_other_device_goes_on_with_the_same_tokens(
    tiny: TinyLlm, break_device: Break, lost: str, other: str
) -> None:
    break_device(lost, 7)
    with session(tiny.bundle, other, lost, keeps_cache=True) as opened:
        answer = opened.generate(PROMPT, max_new_tokens=NEW, ignore_eos=True)
        assert list(answer.token_ids) == tiny.oracle.greedy(PROMPT, NEW)
        (loss,) = answer.losses
        assert (loss.device, loss.successor, answer.stats.decode) == (lost, other, other)
        assert loss.reason == f"{lost} could not run: device removed"
        assert len(PROMPT) < loss.tokens_again < len(PROMPT) + NEW
        # From then on there is one device, which has a cache of its own.
        longer = [*PROMPT, *answer.token_ids, 5, 6]
        second = opened.generate(longer, max_new_tokens=3, ignore_eos=True)
        assert list(second.token_ids) == tiny.oracle.greedy(longer, 3)
        assert (second.losses, second.stats.weights_copies) == ((), 1)
        assert second.stats.cached_tokens == len(PROMPT) + NEW - 1


@pytest.mark.parametrize(("lost", "other"), [(ORT, OPENVINO), (OPENVINO, ORT)])
@pytest.mark.parametrize("runs", [0, 1])
def test_a_device_lost_within_the_prompt(tiny: TinyLlm, break_device: Break, lost: str, other: str, runs: int) -> None:
    break_device(lost, runs)
    with session(tiny.bundle, lost, other, chunk_tokens=16) as opened:
        answer = opened.generate(PROMPT, max_new_tokens=NEW, ignore_eos=True)
    assert list(answer.token_ids) == tiny.oracle.greedy(PROMPT, NEW)
    assert [(loss.device, loss.tokens_again) for loss in answer.losses] == [(lost, len(PROMPT))]
    assert (answer.stats.prefill, answer.stats.kv_bytes) == (other, 0)


def test_memory_that_is_full_at_the_hand_over(tiny: TinyLlm, break_device: Break) -> None:
    break_device(OPENVINO, 0, OutOfMemory("cpu:openvino has no memory left"))
    with session(tiny.bundle, ORT, OPENVINO) as opened:
        answer = opened.generate(PROMPT, max_new_tokens=NEW, ignore_eos=True)
    assert list(answer.token_ids) == tiny.oracle.greedy(PROMPT, NEW)
    assert [loss.reason for loss in answer.losses] == ["cpu:openvino has no memory left"]


def test_scores_and_chats_survive_too(tiny: TinyLlm, break_device: Break) -> None:
    break_device(ORT, 3)
    with session(tiny.bundle, OPENVINO, ORT) as opened:
        following = kit.tokens(6, seed=4).tolist()
        scores = opened.scores(PROMPT, following)
        expected = tiny.oracle.logits(PROMPT + following)[len(PROMPT) - 1 :]
        assert abs(scores - expected).max() < 1e-4
        talk = Conversation(opened, max_new_tokens=4)
        assert talk.ask("hello").losses == ()


def test_the_only_device_and_both_devices_lost(tiny: TinyLlm, break_device: Break) -> None:
    break_device(ORT, 5)
    with session(tiny.bundle, ORT, ORT) as opened, pytest.raises(EngineFailed, match="cpu:ort could not run: device"):
        opened.generate(PROMPT, max_new_tokens=NEW, ignore_eos=True)
    break_device(ORT, 5)
    break_device(OPENVINO, 1)
    with session(tiny.bundle, OPENVINO, ORT) as opened:
        with pytest.raises(EngineFailed, match=r"cpu:ort .* removed; and then cpu:openvino .* removed") as caught:
            opened.generate(PROMPT, max_new_tokens=NEW, ignore_eos=True)
        assert "\n" not in str(caught.value)


def test_the_command_says_what_was_lost(
    tiny: TinyLlm, break_device: Break, folders: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["generate", str(tiny.path), "-p", "hello", "--max-new-tokens", "8", "--threads", "1"]
    words += ["--precision", "float32"]
    assert main([*words, "--prefill", OPENVINO, "--decode", OPENVINO]) == 0
    expected = capsys.readouterr().out
    break_device(ORT, 3)
    pair = ["--prefill", OPENVINO, "--decode", ORT]
    assert main([*words, *pair]) == 0
    out, err = capsys.readouterr()
    assert out == expected
    assert "cpu:ort could not run: device removed: its keys and values were lost, cpu:openvino computed " in err
    break_device(ORT, 3)
    assert main([*words, *pair, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [loss["device"] for loss in document["losses"]] == [ORT]
    break_device(ORT, 3)
    assert main([*words, "--prefill", ORT, "--decode", ORT]) == 2
    assert "cpu:ort could not run: device removed" in capsys.readouterr().err
