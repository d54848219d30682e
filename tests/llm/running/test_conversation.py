"""Turns of a conversation: what is not computed again changes no answer."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.llm import tiny_llms as kit
from tests.llm.architecture_files import write_architecture
from tests.llm.tiny_llms import GROWN, TinyLlm, TinyLlms
from trisect.llm.bundle import Bundle
from trisect.llm.importing.model_import import open_model
from trisect.llm.running.conversation import Conversation
from trisect.llm.running.generation import LanguageSession
from trisect.runtime.errors import ContextExceeded, InvalidInput, RunCancelled

ORT, OPENVINO = "cpu:ort", "cpu:openvino"
NO_SYSTEM_ROLE = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)


@pytest.fixture(scope="module")
def tiny(tiny_llms: TinyLlms) -> TinyLlm:
    return tiny_llms.get("llama", "F32", "float32")


def open_session(bundle: Bundle, prefill: str = ORT, decode: str = ORT, *, threads: int = 1) -> LanguageSession:
    first, second = kit.device(prefill), kit.device(decode)
    return LanguageSession(
        bundle, first, second, threads=threads, precision="float32", chunk_tokens=16, keeps_cache=True
    )


@pytest.fixture(scope="module")
def session(tiny: TinyLlm) -> Iterator[LanguageSession]:
    with open_session(tiny.bundle) as opened:
        yield opened


@pytest.mark.parametrize(
    ("prefill", "decode", "in_place"),
    [(ORT, ORT, True), (ORT, ORT, False), (OPENVINO, OPENVINO, True), (OPENVINO, ORT, True), (ORT, OPENVINO, True)],
    ids=["in place", "growing", "stateful", "stateful to in place", "in place to stateful"],
)
@pytest.mark.parametrize("on_decode_device", [False, True])
def test_cached_tokens_change_no_answer(
    tiny: TinyLlm, prefill: str, decode: str, in_place: bool, on_decode_device: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if prefill == decode and on_decode_device:
        pytest.skip("there is one device only")
    bundle = tiny.bundle if in_place else replace(tiny.bundle, graphs=(GROWN,))
    first, added, other = (kit.tokens(n, seed=n).tolist() for n in (30, 9, 11))
    with open_session(bundle, prefill, decode) as session:
        monkeypatch.setattr(
            session._pair, "continues_on_decode_device", lambda _: on_decode_device and bool(session._pair._decoded)
        )
        prompt: list[int] = list(first)
        answers = []
        # An answer that was cut, a prompt that goes on behind it, one that goes back into the first, the same again.
        for step in ("begin", "go on", "go on", "go back", "go on", "repeat"):
            if step == "go on":
                prompt = [*prompt, *answers[-1], *added]
            elif step == "go back":
                prompt = [*first[:20], *other]
            answer = session.generate(prompt, max_new_tokens=6, ignore_eos=True)
            answers.append(list(answer.token_ids))
            assert answers[-1] == tiny.oracle.greedy(prompt, 6), step
            cached = answer.stats.cached_tokens
            # The last token of a cut answer was never computed; the last of a prompt always is, for its scores.
            whole_answer = prefill == decode or on_decode_device
            if step == "go on":
                behind = len(answers[-2]) + len(added)
                assert cached == len(prompt) - behind + (len(answers[-2]) - 1 if whole_answer else 0)
            else:
                assert cached == {"begin": 0, "go back": 20, "repeat": len(prompt) - 1}[step]


def test_sessions_compute_everything_by_default(tiny: TinyLlm) -> None:
    device = kit.device(ORT)
    with LanguageSession(tiny.bundle, device, device, threads=1) as session:
        for _ in range(2):
            assert session.generate([5, 6, 7], max_new_tokens=2).stats.cached_tokens == 0


def test_turns_are_those_of_the_template(session: LanguageSession) -> None:
    talk = Conversation(session, system="be brief", max_new_tokens=4)
    first = talk.ask("hello")
    assert first.stats.prompt_tokens == len(
        session.tokenizer.encode_chat([{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}])
    )
    talk.ask("again")
    assert [message["role"] for message in talk.messages] == ["user", "assistant", "user", "assistant"]
    assert talk.messages[1]["content"] == first.text
    talk.reset()
    assert talk.ask("hello").token_ids == first.token_ids


def test_a_system_prompt_without_a_system_role(tiny_llms: TinyLlms) -> None:
    bundle = tiny_llms.get(metadata={"tokenizer.chat_template": NO_SYSTEM_ROLE}).bundle
    with open_session(bundle) as session:
        talk = Conversation(session, system="be brief", max_new_tokens=2)
        merged = session.tokenizer.encode_chat([{"role": "user", "content": "be brief\n\nhello"}])
        assert talk.ask("hello").stats.prompt_tokens == len(merged)


def test_oldest_turns_are_left_out_when_the_context_is_full(
    session: LanguageSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = Conversation(session, max_new_tokens=4)
    for _ in range(12):
        answer = talk.ask("hello there")
        assert answer.stats.prompt_tokens + 4 <= session.bundle.context_length
    assert talk.left_out > 0
    assert talk.left_out % 2 == 0
    # What is freed at once serves several turns, which compute only what they add.
    cached = [talk.ask("hello there").stats.cached_tokens for _ in range(8)]
    assert sum(tokens > 100 for tokens in cached) >= 4, cached
    formatted: list[int] = []
    encode, left_out = session.tokenizer.encode_chat, talk.left_out

    def encode_and_count(messages: Sequence[dict[str, str]]) -> list[int]:
        formatted.append(len(messages))
        return encode(messages)

    monkeypatch.setattr(session.tokenizer, "encode_chat", encode_and_count)
    talk.ask("hello there")
    assert formatted[0] == 41 - left_out  # what is left out already is not tried again
    monkeypatch.undo()
    assert len(talk.messages) == 42
    with pytest.raises(ContextExceeded, match="context of 256"):
        talk.ask("x" * 300)
    assert len(talk.messages) == 42


def test_an_answer_stops_when_asked_to(session: LanguageSession) -> None:
    talk = Conversation(session, max_new_tokens=50)
    pieces: list[str] = []
    answer = talk.ask("hello", on_text=pieces.append, should_stop=lambda: len(pieces) >= 3)
    assert answer.finish == "interrupted"
    assert answer.stats.new_tokens < 50
    assert talk.messages[-1]["content"] == answer.text


@pytest.mark.parametrize(("prefill", "decode"), [(ORT, ORT), (OPENVINO, OPENVINO), (OPENVINO, ORT), (ORT, OPENVINO)])
def test_a_long_message_can_be_stopped_between_its_chunks(tiny: TinyLlm, prefill: str, decode: str) -> None:
    prompt = kit.tokens(100, seed=3).tolist()
    with open_session(tiny.bundle, prefill, decode) as session:
        first = session.generate(prompt[:20], max_new_tokens=4, ignore_eos=True)
        asked: list[int] = []

        def should_stop() -> bool:
            asked.append(1)
            return len(asked) == 2

        stopped = session.generate(prompt, max_new_tokens=4, ignore_eos=True, should_stop=should_stop)
        assert (stopped.finish, stopped.token_ids, stopped.text, stopped.stats.new_tokens) == ("interrupted", (), "", 0)
        again = session.generate(prompt, max_new_tokens=4, ignore_eos=True)
        assert list(again.token_ids) == tiny.oracle.greedy(prompt, 4)
        assert again.stats.cached_tokens == 20 + 2 * 16  # what the two chunks computed stays
        assert session.generate(prompt[:20], max_new_tokens=4, ignore_eos=True).token_ids == first.token_ids


@pytest.mark.parametrize(("prefill", "decode"), [(ORT, ORT), (OPENVINO, OPENVINO), (OPENVINO, ORT), (ORT, OPENVINO)])
@pytest.mark.parametrize("variant", ["llama", "gemma3"])
def test_a_long_message_can_be_stopped_within_a_chunk(
    tmp_path: Path, variant: str, prefill: str, decode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = open_model(write_architecture(tmp_path / "m.gguf", variant), weights="float32")
    prompt = kit.tokens(100, seed=3).tolist()
    with open_session(bundle, prefill, decode, threads=2) as session:
        expected = session.generate(prompt, max_new_tokens=4, ignore_eos=True)
        session.generate(prompt[:20], max_new_tokens=4, ignore_eos=True)
        monkeypatch.setattr(session._pair, "continues_on_decode_device", lambda _: False)
        runner = session._pair.prefill
        forward, is_running, begins, cancelled = runner.forward, threading.Event(), list[int](), list[int]()

        def endless(ids: np.ndarray, start: int) -> np.ndarray:
            """Compute the third chunk again and again, so that it lasts until it is cancelled."""
            begins.append(start)
            try:
                while len(begins) == 3:
                    is_running.set()
                    forward(ids, start)
                    if prefill == OPENVINO:  # whose state grows by each run
                        runner.rewind(start)
                return forward(ids, start)
            except RunCancelled:
                cancelled.append(start)
                raise

        with monkeypatch.context() as patch:
            patch.setattr(runner, "forward", endless)
            stopped = session.generate(prompt, max_new_tokens=4, ignore_eos=True, should_stop=is_running.is_set)
        assert (stopped.finish, stopped.token_ids) == ("interrupted", ())
        assert cancelled == [begins[0] + 2 * 16]
        again = session.generate(prompt, max_new_tokens=4, ignore_eos=True)
        assert again.token_ids == expected.token_ids
        # A buffer that holds a window only may have lost tokens in the run that was cancelled.
        assert again.stats.cached_tokens == (cancelled[0] if variant == "llama" else 0)


def test_a_message_that_was_stopped_is_not_part_of_the_conversation(session: LanguageSession) -> None:
    talk = Conversation(session, max_new_tokens=4)
    talk.ask("hello")
    before = list(talk.messages)
    answer = talk.ask("y" * 60, should_stop=lambda: True)
    assert (answer.finish, answer.token_ids) == ("interrupted", ())
    assert talk.messages == before
    assert talk.ask("again").stats.cached_tokens > 0


def test_refuses_base_models_and_empty_messages(tiny_llms: TinyLlms, session: LanguageSession) -> None:
    with pytest.raises(InvalidInput, match="message is empty"):
        Conversation(session).ask("  ")
    bundle = tiny_llms.get(metadata={"tokenizer.chat_template": None}).bundle
    with open_session(bundle) as base, pytest.raises(InvalidInput, match="base model"):
        Conversation(base)
