"""How much memory a language model takes on devices: weights as each engine holds them, KV cache, and activations.

Engines state how they hold weights (`EngineMemory`); the sizes are known before anything is loaded, and for a GGUF file
before it is imported. Pages that engines map from the weights file are not counted: the system can drop them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trisect.runtime import engines
from trisect.runtime.device import Device
from trisect.runtime.engines.base import EngineMemory
from trisect.runtime.free_memory import free_bytes

from ..bundle import Bundle, StoredForm
from ..running.generation import DEFAULT_CHUNK_TOKENS
from ..running.kv_layer import KvLayer

_FLOAT_BYTES = 4


@dataclass(frozen=True)
class ModelSizes:
    """The sizes of a model that its memory depends on."""

    weights_bytes: int
    kv_layers: tuple[KvLayer, ...]
    context_length: int
    forms: tuple[StoredForm, ...] = ()
    """How weights are stored; empty = unknown."""
    layer_values: int = 0
    """See `Bundle.layer_values`."""
    has_in_place_graph: bool = True
    """Whether engines that extend a KV cache in place have a graph of their own."""

    @classmethod
    def of(cls, bundle: Bundle) -> ModelSizes:
        """Return the sizes of an imported model."""
        return cls(
            weights_bytes=bundle.weights_bytes,
            kv_layers=bundle.kv_layers,
            context_length=bundle.context_length,
            forms=bundle.forms,
            layer_values=bundle.layer_values,
            has_in_place_graph=any(graph.cache == "in-place" for graph in bundle.graphs),
        )


@dataclass(frozen=True)
class ModelMemory:
    """Memory that a model takes on devices."""

    weights_bytes: int
    """With what the engines take for themselves."""
    cache_bytes: int
    """The KV cache, in all copies."""
    activation_bytes: int
    """While a part of a prompt is computed."""

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.weights_bytes + self.cache_bytes + self.activation_bytes

    def __add__(self, other: ModelMemory) -> ModelMemory:
        return ModelMemory(
            self.weights_bytes + other.weights_bytes,
            self.cache_bytes + other.cache_bytes,
            self.activation_bytes + other.activation_bytes,
        )


@dataclass(frozen=True)
class MemoryPool:
    """Memory that some devices share: the host's, or that of a device with memory of its own."""

    name: str
    devices: tuple[Device, ...]
    available_bytes: int | None
    """None = unknown."""


def weights_memory(model: ModelSizes, device: Device) -> int:
    """Return what an engine takes for the weights, beside the pages that it maps from their file."""
    memory = engines.capabilities(device).memory
    if not model.forms:
        return memory.base_bytes + int(memory.copies * model.weights_bytes)
    phase = "decode" if _is_in_place(model, device) else "prefill"
    forms = [form for form in model.forms if form.phase in (phase, "both")]
    return memory.base_bytes + sum(_form_bytes(form, memory) for form in forms)


def memory_need(model: ModelSizes, devices: Sequence[Device], context_tokens: int) -> ModelMemory:
    """Return what a model takes on the devices of one pool.

    Parameters
    ----------
    devices : sequence of Device
        One, or one for each phase; a device for both phases is loaded once.
    context_tokens : int
        Tokens of prompt and answer.
    """
    need = ModelMemory(0, 0, 0)
    distinct = {device.id: device for device in devices}
    tokens = min(context_tokens, model.context_length)
    chunk = min(context_tokens, DEFAULT_CHUNK_TOKENS)
    all_tokens = sum(tokens * layer.bytes_per_token for layer in model.kv_layers)
    on_host = [id_ for id_, device in distinct.items() if _computes_on_host_cache(model, device)]
    for device in distinct.values():
        memory = engines.capabilities(device).memory
        copies = 1.0 if _is_in_place(model, device) else memory.cache_copies
        inside = 0 if device.id in on_host else int(copies * all_tokens)
        values = _FLOAT_BYTES * model.layer_values * chunk
        need += ModelMemory(weights_memory(model, device), inside, int(memory.activation_copies * values))
    # The buffers that an engine works on in place, or through which two engines exchange the cache.
    is_shared = len(distinct) > 1 or bool(on_host)
    return need + ModelMemory(0, host_cache_bytes(model, tokens) if is_shared else 0, 0)


def host_cache_bytes(model: ModelSizes, tokens: int) -> int:
    """Return the size of the KV cache in host memory: of layers with a sliding window, it holds little more than that.

    Engines that keep the cache themselves, or in the memory of a device, keep all tokens.
    """
    return sum(min(tokens, layer.rows(tokens)) * layer.bytes_per_token for layer in model.kv_layers)


def memory_pools(devices: Sequence[Device]) -> list[MemoryPool]:
    """Return the memories that devices use, and how much is free there."""
    distinct = {device.id: device for device in devices}
    own = {id_: device for id_, device in distinct.items() if engines.capabilities(device).own_memory}
    pools = [MemoryPool(id_, (device,), device.memory_bytes) for id_, device in own.items()]
    on_host = tuple(device for id_, device in distinct.items() if id_ not in own)
    return [*([MemoryPool("this machine", on_host, free_bytes())] if on_host else []), *pools]


def shortage(model: ModelSizes, devices: Sequence[Device], context_tokens: int) -> str:
    """Return why a model does not fit into the memory of the devices that it is to run on; empty where it does."""
    for pool in memory_pools(devices):
        need = memory_need(model, pool.devices, context_tokens)
        if pool.available_bytes is not None and need.total_bytes > pool.available_bytes:
            return f"{described(need, pool.devices, context_tokens)}, and {_size(pool.available_bytes)} are free"
    return ""


def devices_too_many(model: ModelSizes, devices: Sequence[Device], context_tokens: int) -> dict[str, str]:
    """Return the devices to leave out, those that take most, so that the model fits on all others at once.

    Returns
    -------
    dict of str to str
        Device id -> what the devices need together with it.
    """
    left_out: dict[str, str] = {}
    remaining = list(devices)
    while remaining and (reason := shortage(model, remaining, context_tokens)):
        largest = max(remaining, key=lambda device: memory_need(model, (device,), context_tokens).total_bytes)
        left_out[largest.id] = reason
        remaining.remove(largest)
    return left_out


def longest_context(model: ModelSizes, devices: Sequence[Device], available_bytes: int) -> int:
    """Return how many tokens of prompt and answer fit into memory; 0 if not even the weights do."""
    low, high = 0, model.context_length
    while low < high:
        middle = (low + high + 1) // 2
        if memory_need(model, devices, middle).total_bytes <= available_bytes:
            low = middle
        else:
            high = middle - 1
    return low


def described(need: ModelMemory, devices: Sequence[Device], context_tokens: int) -> str:
    """Return a need in words, with the parts that it consists of."""
    names = " -> ".join(dict.fromkeys(device.id for device in devices))
    parts = (
        f"weights {_size(need.weights_bytes)}, KV cache of {context_tokens} tokens {_size(need.cache_bytes)}, "
        f"activations {_size(need.activation_bytes)}"
    )
    return f"{names} needs {_size(need.total_bytes)} ({parts})"


def _form_bytes(form: StoredForm, memory: EngineMemory) -> int:
    if not form.bits:
        return memory.bytes_per_float * form.weights
    blocks = form.weights // max(1, form.block)
    per_block = memory.bytes_per_block + (memory.bytes_per_offset if form.has_offsets else 0)
    return int(memory.copies * form.weights * form.bits / 8) + per_block * blocks


def _is_in_place(model: ModelSizes, device: Device) -> bool:
    modes = engines.decoder_support(device).modes
    return model.has_in_place_graph and "in-place" in modes[:1]


def _computes_on_host_cache(model: ModelSizes, device: Device) -> bool:
    return _is_in_place(model, device) and not engines.capabilities(device).own_memory


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:,.3g} GB" if size_bytes >= 1e8 else f"{size_bytes / 1e6:,.3g} MB"
