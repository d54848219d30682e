"""A cluster as one set of devices: what `address=` means to the sentences of a user."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext

from trisect.profiles.capabilities.compile_verdicts import Capabilities
from trisect.profiles.stored.profile_data import Profile
from trisect.runtime.device import Device, select
from trisect.runtime.progress import Progress, no_progress


def reached(address: str | None) -> AbstractContextManager[object]:
    """The cluster kept at hand for a while; nothing for no address.

    Raises
    ------
    ClusterFailed, InvalidInput, EngineMissing
        Where it cannot be had.
    """
    if address is None:
        return nullcontext()
    from trisect.runtime.cluster.ray_connection import connect

    return connect(address)


def devices(address: str, wanted: str | Iterable[str], *, real: bool = False) -> list[Device]:
    """Devices of all nodes, each under its node's name: ``edge1/npu:qnn``.

    Parameters
    ----------
    address : str
    wanted : str or iterable of str
        Ids, kinds, nodes (``edge1``), kinds of a node (``edge1/npu``), or ``"auto"``.
    real : bool
        Whether ``"auto"`` leaves out what is no hardware.

    Raises
    ------
    UnknownDevice
        With the nearest name and the list of those there are.
    ClusterFailed
        Where the cluster cannot be reached, or a node has another trisect.
    """
    from trisect.runtime.cluster.cluster_nodes import devices as listed
    from trisect.runtime.cluster.ray_connection import connect

    with connect(address) as connection:
        everything = listed(connection)
    if real and wanted == "auto":
        return [device for device in everything if device.is_real] or everything
    return select(wanted, everything)


def profile(chosen: Sequence[Device], budget_s: float, progress: Progress = no_progress) -> Profile:
    """Measure a cluster's devices; see `trisect.profiles.measuring.cluster_profile`."""
    from trisect.profiles.measuring.cluster_profile import cluster_profile
    from trisect.runtime.cluster.ray_connection import connect

    with connect() as connection:
        return cluster_profile(connection, chosen, budget_s=budget_s, progress=progress)


def capabilities(chosen: Sequence[Device]) -> Capabilities:
    """Verdicts of these devices, asked for where they are."""
    if not is_of_cluster(chosen):
        return Capabilities()
    from trisect.profiles.measuring.cluster_profile import refusal_there
    from trisect.runtime.cluster.ray_connection import connect

    with connect() as connection:
        return Capabilities(ask=refusal_there(connection))


def is_of_cluster(chosen: Sequence[Device]) -> bool:
    """Whether devices are named after nodes."""
    return any(device.node for device in chosen)
