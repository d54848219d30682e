"""The devices of a Ray cluster as one set of devices: what the parameter `address` of the public functions selects."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext

from trisect.profiles.capabilities.compile_verdicts import Capabilities
from trisect.profiles.stored.profile_data import Profile
from trisect.runtime.device import Device, select
from trisect.runtime.progress import Progress, no_progress


def connected(address: str | None) -> AbstractContextManager[object]:
    """Return a context manager that keeps the connection to a cluster open; one that does nothing without an address.

    Raises
    ------
    ClusterFailed, InvalidInput, EngineMissing
        When the cluster cannot be reached.
    """
    if address is None:
        return nullcontext()
    from trisect.runtime.cluster.ray_connection import connect

    return connect(address)


def devices(address: str, wanted: str | Iterable[str], *, real: bool = False) -> list[Device]:
    """List the devices of all nodes, each under its node's name: ``edge1/npu:qnn``.

    Parameters
    ----------
    wanted : str or iterable of str
        Ids, kinds, nodes (``edge1``), kinds of a node (``edge1/npu``), or ``"auto"``.
    real : bool
        Whether ``"auto"`` leaves out simulated and software devices.

    Raises
    ------
    UnknownDevice
        With the nearest name and a list of all.
    ClusterFailed
        When the cluster cannot be reached, or a node has another version of trisect.
    """
    from trisect.runtime.cluster.cluster_nodes import cluster_devices
    from trisect.runtime.cluster.ray_connection import connect

    with connect(address) as connection:
        all_devices = cluster_devices(connection)
    if real and wanted == "auto":
        return [device for device in all_devices if device.is_real] or all_devices
    return select(wanted, all_devices)


def profile(chosen: Sequence[Device], budget_s: float, progress: Progress = no_progress) -> Profile:
    """Measure a cluster's devices; see `trisect.profiles.measuring.cluster_profile`."""
    from trisect.profiles.measuring.cluster_profile import cluster_profile
    from trisect.runtime.cluster.ray_connection import connect

    with connect() as connection:
        return cluster_profile(connection, chosen, budget_s=budget_s, progress=progress)


def capabilities(chosen: Sequence[Device]) -> Capabilities:
    """Return the capabilities of devices, checked on the node of each."""
    if not is_of_cluster(chosen):
        return Capabilities()
    from trisect.profiles.measuring.cluster_profile import remote_comparison, remote_compile_failure
    from trisect.runtime.cluster.ray_connection import connect

    with connect() as connection:
        return Capabilities(ask=remote_compile_failure(connection), compare=remote_comparison(connection))


def is_of_cluster(chosen: Sequence[Device]) -> bool:
    """Return whether devices belong to a cluster."""
    return any(device.node for device in chosen)
