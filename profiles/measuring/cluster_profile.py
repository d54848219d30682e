"""A cluster's profile: each node measures its own devices, and the links between nodes are measured over the network.

A node's figures are kept on the node; those of the links beside this machine's own profile, for as long as the cluster
has the same nodes.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import onnx

from trisect.runtime.cluster.cluster_nodes import ClusterNode, call_on_node, living_nodes
from trisect.runtime.cluster.ray_connection import RayConnection
from trisect.runtime.cluster.transfer_probe import measure_transfers
from trisect.runtime.device import Device
from trisect.runtime.engines import discover
from trisect.runtime.engines.base import LoadOptions
from trisect.runtime.progress import Progress, no_progress

from ..capabilities.compile_verdicts import compile_failure
from ..stored import profile_store as store
from ..stored.profile_data import DeviceProfile, Link, LinkPoint, Profile
from ..stored.provenance import provenance
from .device_measurement import measure
from .link_measurement import SIZES_BYTES, fit_link, measure_link

_MARGIN_S = 120.0
"""What a node may take beyond its budget, for what is measured whatever the budget."""
_ASK_S = 120.0


def cluster_profile(
    connection: RayConnection, devices: Sequence[Device], *, budget_s: float, progress: Progress = no_progress
) -> Profile:
    """Figures of a cluster's devices and of all links between them; what nobody measured yet is measured now.

    Parameters
    ----------
    connection : Connection
    devices : sequence of Device
        Of the cluster, under its names (`trisect.runtime.cluster.cluster_nodes.cluster_devices`).
    budget_s : float
        For each node that has no figures of one of its devices.
    progress : callable, optional

    Raises
    ------
    ClusterFailed
        For a node that is gone or does not answer.
    EngineFailed
        For a device that cannot run the smallest model.
    """
    among = [node for node in living_nodes(connection) if any(device.node == node.name for device in devices)]
    found: dict[str, DeviceProfile] = {}
    links: dict[tuple[str, str], Link] = {}
    for number, node in enumerate(among):
        progress(number, len(among) + 1, f"measuring {node.name}")
        own = tuple(device.local_id for device in devices if device.node == node.name)
        # One after the other: nodes may be parts of one machine, and would disturb each other's figures.
        answer = call_on_node(connection, node, _profile_here, own, budget_s, timeout_s=budget_s + _MARGIN_S)
        there = msgspec.json.decode(answer, type=Profile)
        for device_id, measured in there.devices.items():
            name = f"{node.name}/{device_id}"
            found[name] = msgspec.structs.replace(measured, device=name)
    progress(len(among), len(among) + 1, "measuring the network")
    links = _links(connection, among, devices)
    progress(len(among) + 1, len(among) + 1, "done")
    origin = replace(provenance(devices, None), host=", ".join(node.name for node in among))
    return Profile(origin, "float32", found, tuple(links.values()))


def remote_compile_failure(connection: RayConnection) -> Callable[[Path | bytes, Device], str]:
    """Ask the node that has a device whether it compiles a model; see `compile_verdicts.compile_failure`."""
    among = {node.name: node for node in living_nodes(connection)}
    here = {(device.id, device.name, device.engine_version) for device in discover()}

    def ask(model: Path | bytes, device: Device) -> str:
        if (device.local_id, device.name, device.engine_version) in here:
            return compile_failure(model, replace(device, id=device.local_id))
        content = model if isinstance(model, bytes) else onnx.load(model).SerializeToString()
        given = msgspec.json.encode(replace(device, id=device.local_id))
        return call_on_node(connection, among[device.node], _refusal_here, content, given, timeout_s=_ASK_S)

    return ask


def _links(
    connection: RayConnection, among: Sequence[ClusterNode], devices: Sequence[Device]
) -> dict[tuple[str, str], Link]:
    """Between every two devices, as fast as between any two of their nodes."""
    path = _links_path(among)
    known = {(link.source, link.target): link for link in store.load(path).links} if path.exists() else {}
    wanted = {(a.id, b.id) for a in devices for b in devices if a.id != b.id}
    if wanted <= known.keys():
        return {pair: known[pair] for pair in sorted(wanted)}
    by_node: defaultdict[str, list[Device]] = defaultdict(list)
    for device in devices:
        by_node[device.node].append(device)
    points: dict[tuple[str, str], tuple[LinkPoint, ...]] = {}
    for pair, times in measure_transfers(connection, among, SIZES_BYTES).items():
        points[pair] = tuple(LinkPoint(size, time_s) for size, time_s in zip(SIZES_BYTES, times, strict=True))
    for node in among:
        if node.is_here and len(by_node[node.name]) > 1:
            first, second, *_ = by_node[node.name]
            shared = measure_link(first, second, LoadOptions(), executor="ray", address=connection.address)
            points[node.name, node.name] = shared.points
    found = {
        (a.id, b.id): _link(a, b, points[a.node, b.node]) for a in devices for b in devices if (a.id, b.id) in wanted
    }
    origin = replace(provenance(devices, None), host=", ".join(node.name for node in among))
    store.save(Profile(origin, "float32", {}, tuple({**known, **found}.values())), path)
    return found


def _link(source: Device, target: Device, points: tuple[LinkPoint, ...]) -> Link:
    latency_s, bandwidth = fit_link(points)
    return Link(source.id, target.id, latency_s, bandwidth, points)


def _links_path(among: Sequence[ClusterNode]) -> Path:
    names = ",".join(sorted(node.name for node in among))
    key = hashlib.sha256(names.encode()).hexdigest()[:12]
    return store.default_path().with_name(f"cluster-{key}.json")


def _profile_here(wanted: Sequence[str], budget_s: float) -> bytes:
    """Runs on a node: its stored figures of these devices, measured now where there are none of this engine's version.

    Written as JSON, as in a file.
    """
    path = store.default_path()
    stored = store.load_own(path)
    devices = [device for device in discover() if device.id in wanted]
    known: Mapping[str, DeviceProfile] = stored.devices if stored is not None else {}
    fresh = all(
        (found := known.get(device.id)) is not None
        and (found.name, found.engine_version) == (device.name, device.engine_version)
        and found.points
        for device in devices
    )
    if stored is None or not fresh:
        stored = measure(devices, budget_s=budget_s, known=stored)
        store.save(stored, path)
    return msgspec.json.encode(replace(stored, devices={device.id: stored.devices[device.id] for device in devices}))


def _refusal_here(model: bytes, device: bytes) -> str:
    """Runs on a node: why a device there cannot compile a model."""
    return compile_failure(model, msgspec.json.decode(device, type=Device))
