"""ONNX Runtime driven by a bare loop over the bundle's graph: what trisect may add nothing to."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from trisect.runtime.llm.bundle import Bundle

from . import Timing


class Peer:
    """One session, one binding, one loop."""

    package = "onnxruntime"

    def load(self, model: str, threads: int, settings: dict[str, Any]) -> None:
        self._bundle = bundle = Bundle.load(model)
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.spin_duration_us", "1000")
        graph = next(graph for graph in bundle.graphs if graph.cache == "in-place")
        self._session = ort.InferenceSession(
            str(Path(bundle.folder) / graph.file), options, providers=["CPUExecutionProvider"]
        )
        self._logits = np.zeros((1, 1, bundle.vocab), np.float32)

    def run(self, ids: list[int], new_tokens: int) -> Timing:
        bundle, session = self._bundle, self._session
        binding, step = session.io_binding(), session.io_binding()
        prompt, one = np.array([ids], np.int64), np.zeros((1, 1), np.int64)
        last, total = np.array([len(ids) - 1], np.int32), np.array(len(ids), np.int32)
        for each, ids_in in ((binding, prompt), (step, one)):
            _bind(each, {"input_ids": ids_in, "seqlens_k": last, "total_sequence_length": total}, inputs=True)
            _bind(each, {"logits": self._logits}, inputs=False)
        shape = (1, bundle.kv_heads, len(ids) + new_tokens, bundle.head_dim)
        for layer in range(bundle.layers):
            for part in ("key", "value"):
                buffer = np.zeros(shape, np.float32)
                for each in (binding, step):
                    _bind(each, {f"past_key_values.{layer}.{part}": buffer}, inputs=True)
                    _bind(each, {f"present.{layer}.{part}": buffer}, inputs=False)
        begun = time.perf_counter()
        session.run_with_iobinding(binding)
        tokens = [int(self._logits.argmax())]
        prompt_done = time.perf_counter()
        for _ in range(new_tokens - 1):
            one[0, 0] = tokens[-1]
            last += 1
            total += 1
            session.run_with_iobinding(step)
            tokens.append(int(self._logits.argmax()))
        done = time.perf_counter()
        return Timing(prompt_done - begun, 0.0, done - prompt_done, done - begun, tuple(tokens))


def _bind(binding: ort.IOBinding, arrays: dict[str, np.ndarray], *, inputs: bool) -> None:
    for name, array in arrays.items():
        value = ort.OrtValue.ortvalue_from_numpy(array)
        if inputs:
            binding.bind_ortvalue_input(name, value)
        else:
            binding.bind_ortvalue_output(name, value)
