"""Chooses a runner by the capabilities of a device's engine, and loads it.

- `InPlaceRunner`: the graph reads and extends the buffers of a `KvCache` in place (GroupQueryAttention);
- `DeviceRunner`: the same, with buffers in the memory of a device that has its own;
- `StatefulRunner`: the engine keeps the cache inside the compiled model;
- `GrowingRunner`: past in, present out, passed by reference; works with any graph on any engine;
- `StaticRunner`: a device that needs fixed shapes computes chunks of tokens behind a fixed number of slots.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from trisect.runtime import engines
from trisect.runtime.device import Device
from trisect.runtime.engines.base import BindableDeviceModule, LoadOptions, StatefulModule
from trisect.runtime.errors import EngineFailed
from trisect.runtime.tensors.external_data import check_model_file

from ...bundle import Bundle
from ..kv_layer import cache_names, fresh_name, present_name
from .capture_graph import recordable_graph
from .device_kv_cache import DeviceKvCache
from .device_runner import DeviceRunner
from .exact_graph import exact_graph
from .growing_runner import GrowingRunner
from .in_place_runner import InPlaceRunner
from .runner import Runner
from .stateful_runner import StatefulRunner
from .static_loading import ANY_REQUEST, FixedShapes, load_static_runner

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
    exact: bool = False,
    fixed: FixedShapes = ANY_REQUEST,
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
    exact : bool
        Quantise no activations, to compare other forms with; the engine has to read weights from a folder that it is
        given (`EngineCapabilities.external_data_folder`).
    fixed : FixedShapes
        Sizes of graphs for devices that need fixed shapes.

    Raises
    ------
    InvalidModel
        If the bundle has no graph for the device's engine, or the graph is damaged or refers to other files.
    EngineFailed
        If the engine cannot load the graph.
    """
    options = LoadOptions(threads=threads, precision=precision)
    mode, graph = bundle.form_for(device)
    path = Path(bundle.folder) / graph.file
    check_model_file(path)
    if mode == "static":
        if batch != 1:
            raise EngineFailed(
                f"{device.id} computes one sequence at a time, not {batch}", remedy="choose another device",
                device=device.id,
            )  # fmt: skip
        options = replace(options, spin=decodes)
        return load_static_runner(
            bundle, graph, device, options, fixed=fixed, decodes=decodes, exports_cache=exports_cache
        )
    model: Path | bytes = path
    if exact:
        model, options = exact_graph(path).data, replace(options, external_data_folder=bundle.folder)
    layers = bundle.kv_layers
    past = cache_names(layers)
    if mode == "in-place":
        # Prefill and decode alternate, so spinning delays the other engine by the last millisecond at most.
        options = replace(options, spin=decodes, spin_limit_us=_SPIN_LIMIT_US)
        if decodes and batch == 1 and engines.decoder_support(device).captures_steps:
            recordable = recordable_graph(path.read_bytes() if isinstance(model, Path) else model)
            if recordable is not None:
                model = recordable
                options = replace(options, capture=True, external_data_folder=bundle.folder)
        module = engines.load(model, device, options)
        if graph.full_length and not isinstance(module, BindableDeviceModule):
            module.close()
            raise EngineFailed(
                f"{device.id} keeps no cache in memory of its own, and that of the host has only the windows of "
                f"{bundle.name}", remedy="choose another device", device=device.id,
            )  # fmt: skip
        if isinstance(module, BindableDeviceModule):
            try:
                cache = DeviceKvCache(device, layers, batch)
            except BaseException:
                module.close()
                raise
            return DeviceRunner(module, cache, batch, bundle.vocab, exports_cache=exports_cache)
        return InPlaceRunner(module, batch, bundle.vocab)
    state = {name: present_name(name) for name in past}
    if mode == "growing":
        options = replace(options, spin=decodes, outputs=("logits", *state.values()))
        return GrowingRunner(engines.load(model, device, options), layers, batch, exports_cache=exports_cache)
    state_dtype = None if bundle.kv_dtype == "auto" else bundle.kv_dtype
    fresh = tuple(map(fresh_name, past)) if graph.fresh and exports_cache else ()
    options = replace(
        options, state=state, state_dtype=state_dtype, outputs=("logits", *fresh), native_outputs=fresh,
        scale_group=graph.scale_group,
    )  # fmt: skip
    module = engines.load(model, device, options)
    if not isinstance(module, StatefulModule):
        raise EngineFailed(
            f"{device.id} did not keep the KV cache inside the model", remedy="choose another device", device=device.id
        )
    return StatefulRunner(module, layers, batch, bundle.vocab, exports_cache=exports_cache)
