"""The interface through which planning asks for costs, whatever they come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, Self

from .call_costs import WakeupCosts
from .device_model import DeviceModel
from .link_cost import LinkCost
from .memory_need import MemoryNeed
from .op_features import OpFeatures


class Costs(Protocol):
    """Costs in seconds; ``float("inf")`` where a device cannot run an operator.

    A subclass must define `node_time_s`, `link` and `call_overhead_s`. The other members describe what only
    measured costs know; their defaults mean "not measured".
    """

    @property
    def is_measured(self) -> bool:
        """Whether the costs were measured on this machine, so that further measurements can refine them."""
        return False

    @property
    def scales(self) -> Mapping[str, float]:
        """Device id -> factor by which all operator times are multiplied; 1 where left out."""
        return {}

    @property
    def models(self) -> Mapping[str, DeviceModel]:
        """Device id -> cost model of whole segments; operators are costed one by one on the other devices."""
        return {}

    def node_time_s(self, features: OpFeatures, device_id: str) -> float:
        """Return the time of one operator in a running segment, without the overhead of the segment's call.

        Raises
        ------
        ProfileMissing
            When the device or the class of operators was not measured.
        """

    def link(self, src_id: str, dst_id: str) -> LinkCost:
        """Return the cost of moving a tensor from one device to another.

        Raises
        ------
        ProfileMissing
            When the link was not measured.
        """

    def call_overhead_s(self, device_id: str) -> float:
        """Return the fixed time of each call of a segment on a device."""

    def scaled(self, scales: Mapping[str, float]) -> Self:
        """Return the same costs with other `scales`."""
        return self

    def with_models(self, models: Mapping[str, DeviceModel]) -> Self:
        """Return the same costs with other `models` of some devices."""
        return self

    def wakeup_costs(self) -> WakeupCosts | None:
        """Return the wake-up costs of calls; None where they were not measured."""
        return None

    def memory_needs(self) -> Mapping[str, MemoryNeed]:
        """Return, by device id, the memory that loaded models need; without devices that were not measured."""
        return {}

    def slowdowns(self, executor: str = "threads") -> Mapping[tuple[str, str], float]:
        """Return the factor by which a device is slower while another is busy, by ids of both; if measured."""
        return {}
