"""Images that segments can hand over in NHWC layout, and the devices that compute in it."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from trisect.profiles.costmodel.segment_terms import BoundaryTerms
from trisect.runtime.device import Device
from trisect.runtime.engines import keeps_channels_last

from ..graph.ir_values import spec_of
from ..graph.model_graph import Graph

_DTYPES = ("float32", "float16", "bfloat16")


def channels_last_devices(devices: Collection[Device]) -> frozenset[str]:
    """Return the ids of the devices whose convolutions compute in NHWC layout."""
    return frozenset(device.id for device in devices if keeps_channels_last(device))


def channels_last_tensors(graph: Graph, crossed: dict[str, BoundaryTerms]) -> frozenset[str]:
    """Return the tensors that may cross a boundary in NHWC layout where all devices concerned compute in it.

    Parameters
    ----------
    crossed : dict
        Tensor -> its cost terms at a boundary; see `trisect.profiles.costmodel.segment_terms.boundary_terms`.
    """
    outputs = {str(value.name) for value in graph.model.graph.outputs}
    images = {name for name, terms in crossed.items() if terms.is_channels_last} - outputs
    return frozenset(
        name
        for node in graph.nodes.values()
        for value in node.outputs
        if (name := str(value.name)) in images and _has_fixed_shape(value)
    )


def _has_fixed_shape(value: ir.Value) -> bool:
    spec = spec_of(value)
    return spec.dtype in _DTYPES and all(isinstance(size, int) for size in spec.shape)
