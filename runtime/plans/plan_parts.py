"""The parts of a plan: segments, transfers, the weights file, and the reasons for each placement."""

from __future__ import annotations

from dataclasses import dataclass

from ..tensors.tensor_spec import TensorSpec

WEIGHTS_FILE = "weights.bin"
"""Name of the one file of a plan folder that holds the weights of all segments."""
NARROW_NUMBERS = "narrow-numbers"
"""Assumption of a plan: no 64-bit number, fed to the model or computed by it, needs more than 32 bits."""


@dataclass(frozen=True)
class Segment:
    """A convex part of the model that runs on one device, as one ONNX file."""

    index: int
    device: str
    nodes: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    file: str
    """File name inside the plan folder."""
    sha256: str = ""


@dataclass(frozen=True)
class Transfer:
    """A tensor that one segment produces and another consumes."""

    tensor: str
    source: int
    """Segment index; -1 = the model's inputs."""
    target: int
    """Segment index; -1 = the model's outputs."""
    size_bytes: int


@dataclass(frozen=True)
class Weights:
    """The one file of a plan folder that holds the weights of all segments."""

    file: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class DeviceOption:
    """Cost of placing a task on a device, with its neighbours placed as they are."""

    device: str
    time_s: float | None
    """None where the task cannot or must not run there."""
    copy_s: float = 0.0
    """Of all tensors that cross to and from it: transfers, and conversions from the engines' own layouts."""
    call_s: float = 0.0
    """Call overhead, where no neighbour is on that device."""
    why_not: str = ""
    """Why the task cannot or must not run there."""


@dataclass(frozen=True)
class PlacedTask:
    """Nodes that are placed together, and the reason for their placement."""

    nodes: tuple[str, ...]
    device: str
    op_type: str
    """Of the node with the most work."""
    op_class: str
    reason: str
    options: tuple[DeviceOption, ...] = ()
    """One for each device."""
