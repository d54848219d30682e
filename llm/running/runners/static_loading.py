"""Loads the static graph of a bundle: one program for chunks of a prompt, one for single tokens, over one cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import platformdirs

from trisect.runtime import engines
from trisect.runtime.device import Device
from trisect.runtime.engines.base import LoadOptions, Module
from trisect.runtime.errors import EngineMissing
from trisect.runtime.tensors.external_data import check_model_file

from ...bundle import Bundle, PhaseGraph
from .static_runner import StaticRunner

CHUNK_TOKENS = 128
"""Tokens of a prompt computed at once."""
SLOT_STEP = 256
"""The number of slots is a multiple of this many, so that few forms of a graph are compiled."""
SLOTS_DEFAULT = 2048
"""Slots where the length of the longest request is not known."""


@dataclass(frozen=True)
class FixedShapes:
    """For what a static graph is compiled; other graphs need no such sizes."""

    context_tokens: int | None = None
    """Tokens of the longest prompt with its answer; None = some thousand, as far as the model goes."""
    prefills: bool = True
    """Whether prompts are computed too; else all tokens are computed one by one, and one program is compiled less."""


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

    def load(tokens: int) -> Module:
        sizes = {"tokens": tokens, "slots": slots, "keys": slots + tokens}
        sized = replace(
            options, shapes=sizes, scale_group=graph.scale_group, compiled_folder=str(compiled_folder(bundle)),
        )  # fmt: skip
        return engines.load(path, device, sized)

    return StaticRunner(
        device,
        load_lookup(folder / graph.lookup),
        load,
        chunk_tokens=min(CHUNK_TOKENS, slots) if fixed.prefills else 1,
        slots=slots,
        past={name: layer.shape(1, slots) for layer in bundle.kv_layers for name in layer.names},
        decodes=decodes,
        exports_cache=exports_cache,
    )


def chunk_tokens(bundle: Bundle, device: Device) -> int:
    """Return how many tokens of a prompt a device computes at least: a whole chunk where it needs fixed shapes."""
    return CHUNK_TOKENS if bundle.mode_for(device) == "static" else 1


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
