"""Chooses a runner by the capabilities of a device's engine, and loads it.

- `InPlaceRunner`: the graph reads and extends the buffers of a `KvCache` in place (GroupQueryAttention);
- `StatefulRunner`: the engine keeps the cache inside the compiled model;
- `GrowingRunner`: past in, present out, passed by reference; works with any graph on any engine.
"""

from __future__ import annotations

from pathlib import Path

from trisect.runtime import engines
from trisect.runtime.device import Device
from trisect.runtime.engines.base import LoadOptions, StatefulModule
from trisect.runtime.errors import EngineFailed
from trisect.runtime.tensors.external_data import check_model_file

from ...bundle import Bundle
from ..kv_layer import cache_names, fresh_name, present_name
from .growing_runner import GrowingRunner
from .in_place_runner import InPlaceRunner
from .runner import Runner
from .stateful_runner import StatefulRunner

_SPIN_LIMIT_US = 1000


def load_runner(
    bundle: Bundle,
    device: Device,
    *,
    threads: int | None = None,
    precision: str = "fast",
    decodes: bool,
    exports_cache: bool,
    batch: int = 1,
) -> Runner:
    """Load the bundle's graph that suits a device.

    Parameters
    ----------
    decodes : bool
        It will compute single tokens too: idle threads may spin in between.
    exports_cache : bool
        Another runner will continue from the keys and values that this one computes.
    batch : int
        Number of sequences that the graph takes.

    Raises
    ------
    InvalidModel
        If the bundle has no graph for the device's engine, or the graph is damaged or refers to other files.
    EngineFailed
        If the engine cannot load the graph.
    """
    graph = bundle.graph_for(device)
    path = Path(bundle.folder) / graph.file
    check_model_file(path)
    layers = bundle.kv_layers
    past = cache_names(layers)
    if graph.cache == "in-place":
        # Prefill and decode alternate, so spinning delays the other engine by the last millisecond at most.
        options = LoadOptions(threads=threads, precision=precision, spin=decodes, spin_limit_us=_SPIN_LIMIT_US)
        return InPlaceRunner(engines.load(path, device, options), batch, bundle.vocab)
    state = {name: present_name(name) for name in past}
    if not engines.capabilities(device).internal_state:
        options = LoadOptions(threads=threads, precision=precision, spin=decodes, outputs=("logits", *state.values()))
        return GrowingRunner(engines.load(path, device, options), layers, batch, exports_cache=exports_cache)
    state_dtype = None if bundle.kv_dtype == "auto" else bundle.kv_dtype
    fresh = tuple(map(fresh_name, past)) if graph.fresh and exports_cache else ()
    options = LoadOptions(
        threads=threads, precision=precision, state=state, state_dtype=state_dtype,
        outputs=("logits", *fresh), native_outputs=fresh, scale_group=graph.scale_group,
    )  # fmt: skip
    module = engines.load(path, device, options)
    if not isinstance(module, StatefulModule):
        raise EngineFailed(
            f"{device.id} did not keep the KV cache inside the model", remedy="choose another device", device=device.id
        )
    return StatefulRunner(module, layers, batch, bundle.vocab, exports_cache=exports_cache)
