"""Answers end where they should, are reproducible, and are the same on one device and on two."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.llm import tiny_llms as kit
from tests.llm.oracle_llama import Oracle, mean_kl
from tests.llm.tiny_llms import TinyLlm, TinyLlms
from trisect.llm.bundle import Bundle
from trisect.llm.running import generation
from trisect.llm.running.generation import LanguageSession
from trisect.llm.running.runners.runner import Runner
from trisect.llm.running.runners.runner_loading import load_runner
from trisect.llm.running.sampling import SamplingOptions
from trisect.runtime.device import Device
from trisect.runtime.errors import ContextExceeded, EngineFailed, InvalidInput

ORT, OPENVINO = "cpu:ort", "cpu:openvino"
PAIRS = [(ORT, ORT), (ORT, OPENVINO), (OPENVINO, ORT), (OPENVINO, OPENVINO)]
PROMPTS = (Path(__file__).parents[3] / "bench" / "prompts" / "twenty.txt").read_text("utf-8").splitlines()


def open_session(
    bundle: Bundle, prefill: str, decode: str, precision: str = "float32", chunk: int = 2048
) -> LanguageSession:
    first, second = kit.device(prefill), kit.device(decode)
    return LanguageSession(bundle, first, second, threads=1, precision=precision, chunk_tokens=chunk)


@pytest.fixture(scope="module")
def tiny(tiny_llms: TinyLlms) -> TinyLlm:
    return tiny_llms.get("llama", "F32", "float32")


@pytest.fixture(scope="module")
def session(tiny: TinyLlm) -> Iterator[LanguageSession]:
    with open_session(tiny.bundle, OPENVINO, ORT) as opened:
        yield opened


@pytest.mark.parametrize(("prefill", "decode"), PAIRS)
def test_greedy_answers_are_those_of_numpy(tiny: TinyLlm, prefill: str, decode: str) -> None:
    prompts = [kit.tokens(n, seed=n).tolist() for n in (1, 2, 40)]
    with open_session(tiny.bundle, prefill, decode) as session:
        for ids in prompts:
            answer = session.generate(ids, max_new_tokens=20, ignore_eos=True)
            assert list(answer.token_ids) == tiny.oracle.greedy(ids, 20)
            assert answer.finish == "length"
            stats = answer.stats
            assert (stats.prefill, stats.decode) == (prefill, decode)
            assert (stats.prompt_tokens, stats.new_tokens) == (len(ids), 20)
            split = prefill != decode
            assert stats.kv_bytes == (len(ids) * 2 * 2 * 2 * 16 * 4 if split else 0)
            assert stats.weights_copies == (2 if split else 1)
            assert stats.end_to_end_s == pytest.approx(stats.prefill_s + stats.kv_s + stats.decode_s)


def test_a_prompt_of_2000_tokens_in_chunks_and_at_once(tiny_llms: TinyLlms) -> None:
    long = tiny_llms.get("llama", "F32", "float32", metadata={"llama.context_length": 4096})
    ids = kit.tokens(2000, seed=9).tolist()
    following = kit.tokens(3, seed=10).tolist()
    reference = long.oracle.logits(ids + following)[-4:]
    for pair, chunk in itertools.product(PAIRS, (4096, 512, 333)):
        with open_session(long.bundle, *pair, chunk=chunk) as session:
            scores = session.scores(ids, following)
        np.testing.assert_allclose(scores, reference, rtol=0, atol=1e-3)


@pytest.mark.parametrize(("prefill", "decode"), PAIRS)
def test_the_context_is_filled_to_its_last_token(tiny: TinyLlm, prefill: str, decode: str) -> None:
    ids = kit.tokens(256, seed=11).tolist()
    with open_session(tiny.bundle, prefill, decode) as session:
        full = session.generate(ids, max_new_tokens=5, ignore_eos=True)
        assert full.finish == "context"
        assert list(full.token_ids) == tiny.oracle.greedy(ids, 1)
        nearly = session.generate(ids[:250], max_new_tokens=50, ignore_eos=True)
        assert nearly.finish == "context"
        assert list(nearly.token_ids) == tiny.oracle.greedy(ids[:250], 7)
        exactly = session.generate(ids[:250], max_new_tokens=7, ignore_eos=True)
        assert (exactly.finish, exactly.token_ids) == ("length", nearly.token_ids)
        with pytest.raises(ContextExceeded, match="257 tokens, the model's context 256"):
            session.generate([*ids, 0])
        # What was refused leaves the session as it was.
        assert session.generate(ids, max_new_tokens=1, ignore_eos=True).token_ids == full.token_ids


def test_prompts_that_cannot_be_used(session: LanguageSession) -> None:
    with pytest.raises(InvalidInput, match="empty"):
        session.generate("")
    with pytest.raises(InvalidInput, match="no tokens"):
        session.generate([])
    for token in (-1, 384):
        with pytest.raises(InvalidInput, match=f"token {token}"):
            session.generate([1, token])
    for most in (0, -1):
        with pytest.raises(InvalidInput, match="max_new_tokens"):
            session.generate([1], max_new_tokens=most)
    with pytest.raises(InvalidInput, match="half a character"):
        session.generate("\ud800")
    with pytest.raises(InvalidInput, match="chunk_tokens"):
        open_session(session.bundle, ORT, ORT, chunk=0)


def test_text_and_its_pieces(session: LanguageSession) -> None:
    for sampling in (SamplingOptions(), SamplingOptions(temperature=1.0, seed=5)):
        pieces: list[str] = []
        answer = session.generate("hello", max_new_tokens=40, sampling=sampling, on_text=pieces.append)
        assert "".join(pieces) == answer.text
        assert answer.text == session.tokenizer.decode(answer.token_ids)
        assert len(pieces) > 1


def test_a_prompt_as_text_and_as_ids(session: LanguageSession) -> None:
    chat = session.tokenizer.encode_chat([{"role": "user", "content": "hello"}])
    plain = session.tokenizer.encode("hello")
    assert chat != plain
    assert session.generate("hello").token_ids == session.generate(chat).token_ids
    assert session.generate("hello", chat=False).token_ids == session.generate(plain).token_ids


def test_the_seed_decides(session: LanguageSession) -> None:
    def answer(seed: int) -> tuple[int, ...]:
        sampling = SamplingOptions(temperature=1.0, top_p=0.95, seed=seed)
        return session.generate("hello", max_new_tokens=30, sampling=sampling, ignore_eos=True).token_ids

    assert answer(1) == answer(1)
    assert answer(1) != answer(2)


def test_an_answer_ends_at_an_end_token(session: LanguageSession, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = session.generate([5, 6, 7], max_new_tokens=20, ignore_eos=True).token_ids
    end = next(token for at, token in enumerate(whole) if at >= 2 and token not in whole[:at])
    count = whole.index(end)
    tokenizer = session.tokenizer
    monkeypatch.setattr(tokenizer, "prompting", replace(tokenizer.prompting, eos_ids=(999, end)))
    answer = session.generate([5, 6, 7], max_new_tokens=20)
    assert (answer.finish, answer.token_ids) == ("eos", whole[:count])
    assert answer.text == tokenizer.decode(whole[:count])
    assert session.generate([5, 6, 7], max_new_tokens=20, ignore_eos=True).token_ids == whole
    assert session.generate([5, 6, 7], max_new_tokens=count).finish == "length"


def test_an_answer_ends_before_a_stop_text(session: LanguageSession) -> None:
    sampling = SamplingOptions(temperature=1.0, seed=3)
    whole = session.generate("hello", max_new_tokens=60, sampling=sampling).text
    stop = whole[9:14]
    expected = whole.partition(stop)[0]
    for stops in (stop, [stop], ("nowhere in it", stop)):
        pieces: list[str] = []
        answer = session.generate("hello", max_new_tokens=60, sampling=sampling, stop=stops, on_text=pieces.append)
        assert (answer.finish, answer.text, "".join(pieces)) == ("stop", expected, expected)
    assert session.generate("hello", max_new_tokens=60, sampling=sampling, stop=["\0\0"]).text == whole


def test_nothing_stays_loaded_where_the_second_device_fails(tiny: TinyLlm, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []

    def load(bundle: Bundle, device: Device, **options: Any) -> Runner:
        if not options["exports_cache"]:
            raise EngineFailed("no memory", device=device.id)
        runner = load_runner(bundle, device, **options)
        close = runner.close
        monkeypatch.setattr(runner, "close", lambda: (closed.append(device.id), close()))
        return runner

    monkeypatch.setattr(generation, "load_gated_runner", load)
    with pytest.raises(EngineFailed, match="no memory"):
        LanguageSession(tiny.bundle, kit.device("cpu:openvino"), kit.device("cpu:ort"))
    assert closed == ["cpu:openvino"]


def test_sessions_do_not_change_one_another(session: LanguageSession, tiny: TinyLlm) -> None:
    first = session.generate([9, 8, 7], max_new_tokens=15)
    with open_session(tiny.bundle, ORT, OPENVINO) as other:
        assert other.generate([1, 2], max_new_tokens=15).text != first.text
        assert session.generate([9, 8, 7], max_new_tokens=15).token_ids == first.token_ids


# The real model: 135 million weights in Q4_1, widened to float32 or as they are.


@dataclass(frozen=True)
class Reference:
    """What one float32 engine writes, and its scores after each token: prompts x [1 + new, vocabulary]."""

    prompts: list[list[int]]
    answers: list[list[int]]
    scores: list[np.ndarray]


@pytest.fixture(scope="module")
def reference(request: pytest.FixtureRequest, smollm2_float32: Bundle) -> Reference:
    prompts, new = (20, 64) if request.config.getoption("--slow") else (4, 16)
    with open_session(smollm2_float32, ORT, ORT) as single:
        asked = [single.tokenizer.encode_chat([{"role": "user", "content": text}]) for text in PROMPTS[:prompts]]
        answers = [list(single.generate(ids, max_new_tokens=new, ignore_eos=True).token_ids) for ids in asked]
        return Reference(asked, answers, [single.scores(*both) for both in zip(asked, answers, strict=True)])


def test_a_float32_split_generates_what_one_float32_engine_generates(
    smollm2_float32: Bundle, reference: Reference
) -> None:
    with open_session(smollm2_float32, OPENVINO, ORT) as split:
        for ids, answer, scores in zip(reference.prompts, reference.answers, reference.scores, strict=True):
            written = split.generate(ids, max_new_tokens=len(answer), ignore_eos=True).token_ids
            assert list(written) == answer
            np.testing.assert_allclose(split.scores(ids, answer), scores, rtol=0, atol=1e-3)


@pytest.mark.parametrize(("prefill", "decode"), [(OPENVINO, ORT), (ORT, ORT), (ORT, OPENVINO)])
def test_in_blocks_answers_stay_near_float32(
    smollm2_blocks: Bundle, reference: Reference, prefill: str, decode: str
) -> None:
    with open_session(smollm2_blocks, prefill, decode, precision="fast") as session:
        result = [session.scores(*both) for both in zip(reference.prompts, reference.answers, strict=True)]
    # After the reference's own tokens, one by one: what this one would have chosen does not matter.
    expected, scores = np.concatenate(reference.scores), np.concatenate(result)
    assert mean_kl(expected, scores) <= 0.01
    assert (expected.argmax(axis=-1) == scores.argmax(axis=-1)).mean() >= 0.9


@pytest.mark.slow
def test_the_reference_is_what_numpy_computes(smollm2: Path, reference: Reference) -> None:
    ids, answer, scores = reference.prompts[0], reference.answers[0], reference.scores[0]
    computed = Oracle(smollm2, np.float32).logits(ids + answer)[len(ids) - 1 :]
    np.testing.assert_allclose(scores, computed, rtol=0, atol=1e-3)


@pytest.mark.slow
def test_2000_tokens_of_a_real_text(smollm2_float32: Bundle) -> None:
    result = []
    for prefill, chunk in ((ORT, 2048), (OPENVINO, 2048), (OPENVINO, 500)):
        with open_session(smollm2_float32, prefill, ORT, chunk=chunk) as session:
            ids = (session.tokenizer.encode("\n".join(PROMPTS), add_special=False) * 10)[:2000]
            result.append(session.scores(ids, ids[:3]))
    for scores in result[1:]:
        np.testing.assert_allclose(scores, result[0], rtol=0, atol=1e-3)


def test_a_real_answer(smollm2_float32: Bundle) -> None:
    with open_session(smollm2_float32, ORT, OPENVINO) as session:
        answer = session.generate("What is the capital of France?", max_new_tokens=12)
        assert (answer.text, answer.finish) == ("The capital of France is Paris.", "eos")
        stopped = session.generate("What is the capital of France?", max_new_tokens=12, stop="ari")
        assert (stopped.text, stopped.finish) == ("The capital of France is P", "stop")
