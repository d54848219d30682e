"""Measures a cluster: each node measures its own devices, and the links between nodes are measured over the network.

A node's profile is stored on the node; the links are stored beside this machine's own profile, for as long as the
cluster has the same nodes.
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
from trisect.runtime.scratch_folder import ScratchFolder

from ..capabilities.compile_verdicts import compile_failure
from ..capabilities.value_trials import TrialResult, ValueTrial, isolated_comparison
from ..stored import profile_store as store
from ..stored.profile_data import DeviceProfile, Link, LinkPoint, Profile, Provenance
from ..stored.provenance import provenance
from .device_measurement import measure
from .link_measurement import SIZES_BYTES, fit_link, measure_link

_MARGIN_S = 120.0
"""Time that a node may take beyond its budget, for what is measured regardless of the budget."""
_COMPILE_TIMEOUT_S = 120.0


def cluster_profile(
    connection: RayConnection, devices: Sequence[Device], *, budget_s: float, progress: Progress = no_progress
) -> Profile:
    """Return the profile of a cluster's devices and of all links between them, measuring what is not stored.

    Parameters
    ----------
    connection : RayConnection
    devices : sequence of Device
        Of the cluster, with its ids (`trisect.runtime.cluster.cluster_nodes.cluster_devices`).
    budget_s : float
        For each node on which one of its devices is not measured yet.
    progress : callable, optional

    Raises
    ------
    ClusterFailed
        For a node that is lost or does not answer.
    EngineFailed
        For a device that cannot run the smallest model.
    """
    used_nodes = [node for node in living_nodes(connection) if any(device.node == node.name for device in devices)]
    profiles: dict[str, DeviceProfile] = {}
    steps = len(used_nodes) + 1
    for number, node in enumerate(used_nodes):
        progress(number, steps, f"measuring {node.name}")
        own = tuple(device.local_id for device in devices if device.node == node.name)
        # One after the other: nodes may share a machine, and would disturb each other's measurements.
        answer = call_on_node(connection, node, _profile_on_node, own, budget_s, timeout_s=budget_s + _MARGIN_S)
        for device_id, measured in msgspec.json.decode(answer, type=Profile).devices.items():
            name = f"{node.name}/{device_id}"
            profiles[name] = msgspec.structs.replace(measured, device=name)
    progress(steps - 1, steps, "measuring the network")
    links = _measure_links(connection, used_nodes, devices)
    progress(steps, steps, "done")
    return Profile(_cluster_provenance(used_nodes, devices), "float32", profiles, tuple(links.values()))


def remote_compile_failure(connection: RayConnection) -> Callable[[Path | bytes, Device], str]:
    """Return a function that compiles a model on a device's node; see `compile_verdicts.compile_failure`."""
    nodes = {node.name: node for node in living_nodes(connection)}
    local = {(device.id, device.name, device.engine_version) for device in discover()}

    def compile_on_node(model: Path | bytes, device: Device) -> str:
        local_device = replace(device, id=device.local_id)
        if (device.local_id, device.name, device.engine_version) in local:
            return compile_failure(model, local_device)
        content = model if isinstance(model, bytes) else onnx.load(model).SerializeToString()
        arguments = content, msgspec.json.encode(local_device)
        return call_on_node(
            connection, nodes[device.node], _compile_failure_on_node, *arguments, timeout_s=_COMPILE_TIMEOUT_S
        )

    return compile_on_node


def remote_comparison(connection: RayConnection) -> Callable[[ValueTrial, Device], TrialResult]:
    """Return a function that runs a value trial on a device's node; see `value_trials.compare_values`."""
    nodes = {node.name: node for node in living_nodes(connection)}
    local = {(device.id, device.name, device.engine_version) for device in discover()}

    def compare_on_node(trial: ValueTrial, device: Device) -> TrialResult:
        local_device = replace(device, id=device.local_id)
        if (device.local_id, device.name, device.engine_version) in local:
            return isolated_comparison(trial, local_device)
        arguments = Path(trial.model).read_bytes(), msgspec.json.encode((trial, local_device))
        reply = call_on_node(
            connection, nodes[device.node], _comparison_on_node, *arguments, timeout_s=_COMPILE_TIMEOUT_S
        )
        return msgspec.json.decode(reply, type=TrialResult)

    return compare_on_node


def _measure_links(
    connection: RayConnection, nodes: Sequence[ClusterNode], devices: Sequence[Device]
) -> dict[tuple[str, str], Link]:
    """Return the links between all devices, each as fast as that between the devices' nodes."""
    path = _links_path(nodes)
    stored = {(link.source, link.target): link for link in store.load(path).links} if path.exists() else {}
    pairs = {(a.id, b.id) for a in devices for b in devices if a.id != b.id}
    if pairs <= stored.keys():
        return {pair: stored[pair] for pair in sorted(pairs)}
    by_node: defaultdict[str, list[Device]] = defaultdict(list)
    for device in devices:
        by_node[device.node].append(device)
    points: dict[tuple[str, str], tuple[LinkPoint, ...]] = {}
    for pair, times in measure_transfers(connection, nodes, SIZES_BYTES).items():
        points[pair] = tuple(LinkPoint(size, time_s) for size, time_s in zip(SIZES_BYTES, times, strict=True))
    for node in nodes:
        if node.is_here and len(by_node[node.name]) > 1:
            first, second, *_ = by_node[node.name]
            within_node = measure_link(first, second, LoadOptions(), executor="ray", address=connection.address)
            points[node.name, node.name] = within_node.points
    links = {
        (a.id, b.id): _link(a, b, points[a.node, b.node]) for a in devices for b in devices if (a.id, b.id) in pairs
    }
    origin = _cluster_provenance(nodes, devices)
    store.update(Profile(origin, "float32", {}, tuple({**stored, **links}.values())), path, [d.id for d in devices])
    return links


def _cluster_provenance(nodes: Sequence[ClusterNode], devices: Sequence[Device]) -> Provenance:
    return replace(provenance(devices, None), host=", ".join(sorted(node.name for node in nodes)))


def _link(source: Device, target: Device, points: tuple[LinkPoint, ...]) -> Link:
    latency_s, bandwidth = fit_link(points)
    return Link(source.id, target.id, latency_s, bandwidth, points)


def _links_path(nodes: Sequence[ClusterNode]) -> Path:
    names = ",".join(sorted(node.name for node in nodes))
    key = hashlib.sha256(names.encode()).hexdigest()[:12]
    return store.default_path().with_name(f"cluster-{key}.json")


def _profile_on_node(device_ids: Sequence[str], budget_s: float) -> bytes:
    """Return a node's profile of some devices as JSON; runs on the node, and measures what is missing or outdated."""
    path = store.default_path()
    stored = store.load_own(path)
    devices = [device for device in discover() if device.id in device_ids]
    profiles: Mapping[str, DeviceProfile] = stored.devices if stored is not None else {}
    is_current = all(
        (profile := profiles.get(device.id)) is not None
        and (profile.name, profile.engine_version) == (device.name, device.engine_version)
        and profile.points
        for device in devices
    )
    if stored is None or not is_current:
        stored = measure(devices, budget_s=budget_s, known=stored)
        stored = store.update_if_possible(stored, path, device_ids)
    return msgspec.json.encode(replace(stored, devices={device.id: stored.devices[device.id] for device in devices}))


def _compile_failure_on_node(model: bytes, device: bytes) -> str:
    """Return why a device cannot compile a model; runs on the device's node."""
    return compile_failure(model, msgspec.json.decode(device, type=Device))


def _comparison_on_node(model: bytes, request: bytes) -> bytes:
    """Run a value trial on the device's node."""
    trial, device = msgspec.json.decode(request, type=tuple[ValueTrial, Device])
    with ScratchFolder("values") as folder:
        path = Path(folder) / "trial.onnx"
        path.write_bytes(model)
        return msgspec.json.encode(isolated_comparison(replace(trial, model=str(path)), device))
