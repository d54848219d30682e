"""What trisect's loop adds to each token, over a bare loop on the same loaded model.

Both loops drive one and the same session of the engine in one process: two processes would differ by more than what is
looked for, by how each one's memory happens to lie.
"""

from __future__ import annotations

import statistics
import time

import numpy as np

from trisect.llm.bundle import Bundle
from trisect.llm.running.generation import LanguageSession
from trisect.llm.running.kv_cache import present_name
from trisect.llm.running.runners import InPlaceRunner
from trisect.runtime.device import Device


def decode_overhead(
    bundle: Bundle, device: Device, *, prompt_tokens: int, new_tokens: int, rounds: int, threads: int | None
) -> float | None:
    """Median over rounds of the time of a token by `LanguageSession` over that of a bare loop, less one.

    Returns None where the device does not keep its cache in place: there a bare loop would be another program.
    """
    ids = np.random.default_rng(0).integers(0, bundle.vocab, prompt_tokens).tolist()
    with LanguageSession(bundle, device, device, threads=threads) as session:
        runner = session.decode_runner
        if not isinstance(runner, InPlaceRunner):
            return None
        ratios = []
        for _ in range(rounds + 1):
            ours = session.generate(ids, max_new_tokens=new_tokens, ignore_eos=True).stats.decode_s
            ratios.append(ours / _bare(runner, bundle, prompt_tokens, new_tokens))
    return statistics.median(ratios[1:]) - 1


def _bare(runner: InPlaceRunner, bundle: Bundle, prompt_tokens: int, new_tokens: int) -> float:
    cache = bundle.new_cache(prompt_tokens + new_tokens)
    token, last, total = np.zeros((1, 1), np.int64), np.zeros(1, np.int32), np.zeros((), np.int32)
    logits = np.zeros((1, 1, bundle.vocab), np.float32)
    presents = {present_name(name): buffer for name, buffer in cache.buffers.items()}
    inputs: dict[str, np.ndarray] = {"input_ids": token, "seqlens_k": last, "total_sequence_length": total}
    inputs |= cache.buffers
    for buffer in cache.buffers.values():  # zeros that nobody wrote are one page of memory, which is read too fast
        buffer[...] = 0.1
    binding = runner.module.bind(inputs, {"logits": logits, **presents})
    begun = time.perf_counter()
    for position in range(prompt_tokens, prompt_tokens + new_tokens - 1):
        last[0] = position
        total[...] = position + 1
        binding.run()
        token[0, 0] = logits.argmax()
    return time.perf_counter() - begun
