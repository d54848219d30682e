"""Measures the overhead of trisect's decode loop over a bare loop on the same loaded model.

Both loops use the same session of the engine in one process: two processes differ by more than this overhead, because
of the placement of their memory.
"""

from __future__ import annotations

import statistics
import time

import numpy as np

from trisect.llm.bundle import Bundle
from trisect.llm.running.generation import LanguageSession
from trisect.llm.running.kv_layer import present_name
from trisect.llm.running.runners.in_place_runner import InPlaceRunner
from trisect.runtime.device import Device


def decode_overhead(
    bundle: Bundle, device: Device, *, prompt_tokens: int, new_tokens: int, rounds: int, threads: int | None
) -> float | None:
    """Return the median over rounds of the decode time of `LanguageSession` / that of a bare loop, minus one.

    None if the device does not extend its cache in place: the bare loop would be a different program.
    """
    ids = np.random.default_rng(0).integers(0, bundle.vocab, prompt_tokens).tolist()
    with LanguageSession(bundle, device, device, threads=threads) as session:
        runner = session.decode_runner
        if not isinstance(runner, InPlaceRunner):
            return None
        ratios = []
        for _ in range(rounds + 1):
            session_s = session.generate(ids, max_new_tokens=new_tokens, ignore_eos=True).stats.decode_s
            ratios.append(session_s / _bare_loop_s(runner, bundle, prompt_tokens, new_tokens))
    return statistics.median(ratios[1:]) - 1


def _bare_loop_s(runner: InPlaceRunner, bundle: Bundle, prompt_tokens: int, new_tokens: int) -> float:
    cache = bundle.new_cache(prompt_tokens + new_tokens)
    token, last, total = np.zeros((1, 1), np.int64), np.zeros(1, np.int32), np.zeros((), np.int32)
    logits = np.zeros((1, 1, bundle.vocab), np.float32)
    presents = {present_name(name): buffer for name, buffer in cache.buffers.items()}
    inputs: dict[str, np.ndarray] = {"input_ids": token, "seqlens_k": last, "total_sequence_length": total}
    inputs |= cache.buffers
    for buffer in cache.buffers.values():  # unwritten zeros are one shared page of memory, which is read too fast
        buffer[...] = 0.1
    binding = runner.module.bind(inputs, {"logits": logits, **presents})
    begin = time.perf_counter()
    for position in range(prompt_tokens, prompt_tokens + new_tokens - 1):
        last[0] = position
        total[...] = position + 1
        binding.run()
        token[0, 0] = logits.argmax()
    return time.perf_counter() - begin
