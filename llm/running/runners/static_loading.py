"""Loads the static graph of a bundle: one program for chunks of a prompt, one for single tokens, over one cache."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import platformdirs

from trisect.runtime import engines
from trisect.runtime.device import Device
from trisect.runtime.engines.base import LoadOptions, Module
from trisect.runtime.errors import EngineFailed, EngineMissing
from trisect.runtime.progress import Progress, no_progress
from trisect.runtime.tensors.external_data import check_model_file

from ...bundle import Bundle, PhaseGraph
from .compile_limit import COMPILE_REMEDY, Compiling, compile_limit_s
from .static_runner import StaticRunner

CHUNK_TOKENS = (128, 32)
"""Tokens of a prompt computed at once: a smaller number where an engine cannot compile the larger one in time."""
SLOT_STEP = 256
"""The number of slots is a multiple of this many, so that few forms of a graph are compiled."""
SLOTS_DEFAULT = 2048
"""Slots where the length of the longest request is not known."""
_REASONS_MAX = 600
"""Characters of an error with several reasons."""
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FixedShapes:
    """For what a static graph is compiled; other graphs need no such sizes."""

    context_tokens: int | None = None
    """Tokens of the longest prompt with its answer; None = some thousand, as far as the model goes."""
    prefills: bool = True
    """Whether prompts are computed too; else all tokens are computed one by one, and one program is compiled less."""
    progress: Progress = no_progress
    """Called while a graph is compiled, which may take minutes."""


ANY_REQUEST = FixedShapes()


def slots_for(bundle: Bundle, context_tokens: int | None) -> int:
    """Return the number of tokens for which a static graph is compiled.

    Parameters
    ----------
    context_tokens : int, optional
        Tokens of the longest request.
    """
    wanted = SLOTS_DEFAULT if context_tokens is None else context_tokens
    return min(-(-wanted // SLOT_STEP) * SLOT_STEP, bundle.context_length)


def load_static_runner(
    bundle: Bundle,
    graph: PhaseGraph,
    device: Device,
    options: LoadOptions,
    *,
    fixed: FixedShapes,
    decodes: bool,
    exports_cache: bool,
) -> StaticRunner:
    """Load a bundle's static graph on a device, and its lookup on the host; see `load_runner`."""
    folder = Path(bundle.folder)
    path = folder / graph.file
    check_model_file(path)
    slots = slots_for(bundle, fixed.context_tokens)
    compiling = Compiling(compile_limit_s(), fixed.progress)

    def load(tokens: int) -> Module:
        sizes = {"tokens": tokens, "slots": slots, "keys": slots + tokens}
        sized = replace(
            options, shapes=sizes, scale_group=graph.scale_group, compiled_folder=str(compiled_folder(bundle)),
        )  # fmt: skip
        return compiling.load(path, device, sized, f"{bundle.name} for {_tokens(tokens)} behind {slots} slots")

    chunks = [min(size, slots) for size in CHUNK_TOKENS] if fixed.prefills else []
    modules = _load_programs(load, chunks, device, decodes=decodes)
    try:
        lookup = load_lookup(folder / graph.lookup)
    except BaseException:
        _close(modules)
        raise
    return StaticRunner(
        device,
        lookup,
        modules,
        slots=slots,
        past={name: layer.shape(1, slots) for layer in bundle.kv_layers for name in layer.names},
        exports_cache=exports_cache,
    )


def _load_programs(
    load: Callable[[int], Module], chunks: Sequence[int], device: Device, *, decodes: bool
) -> dict[int, Module]:
    """Load the graph for the first size of chunks that can be compiled, and for single tokens, by number of tokens.

    Single tokens are computed as padded chunks where only their program cannot be compiled, and prompts one by one
    where only theirs cannot.

    Raises
    ------
    EngineFailed
        If none can be compiled: the reasons in one line.
    """
    modules: dict[int, Module] = {}
    reasons: list[str] = []

    def try_sizes(sizes: Sequence[int]) -> None:
        for tokens in sizes:
            try:
                modules[tokens] = load(tokens)
            except EngineFailed as error:
                reasons.append(f"for {_tokens(tokens)}: {error.message}")
                _logger.info("another form is tried %s", reasons[-1])
            else:
                return

    try:
        try_sizes(chunks)
        if decodes or not modules:
            try_sizes([1])
    except BaseException:
        _close(modules)
        raise
    if not modules:
        raise EngineFailed(
            f"{device.id} can compile no form of the model; {'; '.join(reasons)}"[:_REASONS_MAX],
            remedy=COMPILE_REMEDY, device=device.id,
        )  # fmt: skip
    return modules


def _close(modules: Mapping[int, Module]) -> None:
    for module in modules.values():
        module.close()


def _tokens(count: int) -> str:
    return "1 token" if count == 1 else f"{count} tokens"


def chunk_tokens(bundle: Bundle, device: Device) -> int:
    """Return how many tokens of a prompt a device computes at least: a whole chunk where it needs fixed shapes."""
    return CHUNK_TOKENS[0] if bundle.mode_for(device) == "static" else 1


def compiled_folder(bundle: Bundle) -> Path:
    """Return where engines store what they have compiled of a model, under the user's cache directory."""
    return Path(platformdirs.user_cache_dir("trisect", appauthor=False)) / "compiled" / bundle.key


def load_lookup(path: Path) -> Module:
    """Load the graph that looks up embeddings and rotations, on the host; it takes microseconds."""
    check_model_file(path)
    host = next(host_cpus(), None)
    if host is None:
        raise EngineMissing("no engine here looks up embeddings on the CPU", remedy="install onnxruntime")
    return engines.load(path, host, LoadOptions(threads=1))


def host_cpus() -> Iterator[Device]:
    """Yield the CPUs that can take over parts of a model for other devices: those that read weights where they are."""
    for device in engines.discover():
        if device.kind == "cpu" and device.is_real and engines.capabilities(device).external_data_folder:
            yield device
