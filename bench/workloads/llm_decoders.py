"""``llm``: decoders of published sizes, as one problem for prefill and one for a decode step."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from trisect.llm.graphs.decoder_config import DecoderConfig, LayerConfig, Rope
from trisect.llm.graphs.layers.decoder_layers import Layer, ModelWeights
from trisect.llm.graphs.standard_graph import write_standard
from trisect.llm.graphs.weights_file import Dense, Span
from trisect.runtime.errors import InvalidInput
from trisect.runtime.scratch_folder import ScratchFolder
from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.problem.rules import Objective

from . import WorkloadInstance, WorkloadRequest, workload
from ._models import MACHINE, model_problem

_WEIGHTS = "weights.bin"
_MAX_TOKENS = 131_072


_LLAMA = DecoderConfig(
    architecture="llama",
    name="",
    layers=(),
    hidden=0,
    heads=0,
    kv_heads=0,
    head_dim=64,
    ffn=0,
    context_length=_MAX_TOKENS,
    vocab=0,
    norm_epsilon=1e-5,
    attention_scale=1.0,
    ropes=(),
)


def _layers(count: int) -> tuple[LayerConfig, ...]:
    return (LayerConfig(),) * count


_MODELS = {
    "smollm2-135m": replace(_LLAMA, layers=_layers(30), hidden=576, heads=9, kv_heads=3, ffn=1536, vocab=49152),
    "qwen2.5-0.5b": replace(
        _LLAMA, layers=_layers(24), hidden=896, heads=14, kv_heads=2, ffn=4864, vocab=151936, qkv_bias=True
    ),
    "llama-3.2-1b": replace(_LLAMA, layers=_layers(16), hidden=2048, heads=32, kv_heads=8, ffn=8192, vocab=128256),
    "llama-3.1-8b": replace(
        _LLAMA, layers=_layers(32), hidden=4096, heads=32, kv_heads=8, head_dim=128, ffn=14336, vocab=128256,
        tied_embeddings=False,
    ),
}  # fmt: skip
"""From the ``config.json`` of each."""


@workload(
    "llm",
    provenance="decoders of the sizes in the config.json of SmolLM2, Qwen2.5 and Llama 3; no weights",
    licence="Apache-2.0",
)
def llm(request: WorkloadRequest, *, tokens: int = 512, machine: str = MACHINE) -> Iterator[WorkloadInstance]:
    """Yield the prefill of a prompt and one decode step after it, on a machine from the built-in database.

    Parameters
    ----------
    request : WorkloadRequest
        Its argument is the model (``llm:llama-3.2-1b``); by default all models.
    tokens : int
        Length of the prompt.
    machine : str
        See ``trisect devices --machine``.
    """
    if request.argument and request.argument not in _MODELS:
        near = difflib.get_close_matches(request.argument, _MODELS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise InvalidInput(f"no decoder {request.argument!r}", remedy=f"{hint}there are: {', '.join(_MODELS)}")
    if not 1 <= tokens <= _MAX_TOKENS:
        raise InvalidInput(f"llm: tokens is {tokens}", remedy=f"give 1 to {_MAX_TOKENS}")
    for name in [request.argument] if request.argument else list(_MODELS):
        for phase, new, past in (("prefill", tokens, 0), ("decode", 1, tokens)):
            make = partial(_problem, name, new, past, machine, request.objective)
            yield WorkloadInstance(f"{name} {phase}", make)


def _problem(name: str, tokens: int, past: int, machine: str, objective: Objective | None) -> Problem:
    with ScratchFolder("llm") as folder:
        path = Path(folder) / f"{name}.onnx"
        _write(path, _complete(name))
        return model_problem(path, {"tokens": tokens, "past": past}, machine, objective)


def _complete(name: str) -> DecoderConfig:
    config = _MODELS[name]
    rope = Rope((1.0,) * (config.head_dim // 2))
    return replace(config, name=name, attention_scale=config.head_dim**-0.5, ropes=(rope,))


class _UnwrittenWeights:
    """Allocates positions in a weights file that is never written: only the shapes matter."""

    def __init__(self) -> None:
        self.size_bytes = 0

    def span(self, *shape: int) -> Span:
        span = Span(self.size_bytes, shape, np.dtype(np.float32))
        self.size_bytes += span.size_bytes
        return span

    def dense(self, rows: int, columns: int) -> Dense:
        return Dense(self.span(rows, columns))


def _write(path: Path, config: DecoderConfig) -> None:
    file = _UnwrittenWeights()
    width = (config.heads + 2 * config.kv_heads) * config.head_dim
    layers = tuple(
        Layer(
            qkv=file.dense(width, config.hidden),
            qkv_bias=file.span(width) if config.qkv_bias else None,
            attention_output=file.dense(config.hidden, config.heads * config.head_dim),
            gate_up=file.dense(2 * config.ffn, config.hidden),
            down=file.dense(config.hidden, config.ffn),
            attention_norm=file.span(config.hidden),
            ffn_norm=file.span(config.hidden),
        )
        for _ in config.layers
    )
    embedding = file.dense(config.vocab, config.hidden)
    rotary = file.span(_MAX_TOKENS, config.head_dim // 2)
    weights = ModelWeights(
        embedding=embedding,
        output=embedding if config.tied_embeddings else file.dense(config.vocab, config.hidden),
        output_norm=file.span(config.hidden),
        rotary_tables=((rotary, rotary),),
        layers=layers,
        exact_layers=layers,
    )
    write_standard(path, config, weights, _WEIGHTS)
    with (path.parent / _WEIGHTS).open("wb") as sparse:
        sparse.truncate(file.size_bytes)  # a sparse file, which takes no disk space
