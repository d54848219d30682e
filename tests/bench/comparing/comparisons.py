"""Two devices, a model, and synthetic and measured comparisons, for the tests of `trisect bench MODEL.onnx`."""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from trisect import api
from trisect.bench.comparing.comparison import Comparison, ComparisonResult
from trisect.bench.comparing.machine_noise import MachineNoise
from trisect.profiles.costmodel.op_features import OpClass
from trisect.profiles.stored import profile_store as store
from trisect.profiles.stored.profile_data import DeviceProfile, Link, Point, Profile, Provenance
from trisect.runtime.device import Device
from trisect.runtime.plans.timeline import Event, Timeline

DEVICES = (
    Device("cpu:ort", "cpu", "ort", "a processor", engine_version="1"),
    Device("gpu:synthetic", "gpu", "synthetic", "a GPU", "simulated", engine_version="1"),
    Device("npu:synthetic", "npu", "synthetic", "an NPU", "simulated", engine_version="1"),
)
EVIL = '</script><img src=x onerror="alert(1)"><b>{{ 7 * 7 }}</b>'


def write_model(path: Path, layers: int = 6, *, prefix: str = "") -> Path:
    """Two branches of products and activations that meet in a sum."""
    rng = np.random.default_rng(0)
    nodes, weights, ends = [], [], []
    for branch in ("left", "right"):
        name = "x"
        for layer in range(layers):
            key = f"{prefix}{branch}{layer}"
            weights.append(numpy_helper.from_array((rng.standard_normal((16, 16)) / 4).astype(np.float32), f"w{key}"))
            nodes.append(helper.make_node("MatMul", [name, f"w{key}"], [f"m{key}"], name=f"matmul {key}"))
            nodes.append(helper.make_node("Relu", [f"m{key}"], [f"r{key}"], name=f"relu {key}"))
            name = f"r{key}"
        ends.append(name)
    nodes.append(helper.make_node("Add", ends, ["y"], name=f"{prefix}sum"))
    graph = helper.make_graph(
        nodes,
        "branches",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 16])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 16])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def store_synthetic_profile(power_w: float | None = None) -> None:
    """So that no split has to stop to measure."""
    result = api.devices()
    points = tuple(
        Point(f"{kind}:{size}", kind, "synthetic", flops=2.0 * size, size_bytes=4 * size, time_s=1e-6 + size * 1e-9)
        for kind in OpClass
        for size in (100, 10_000, 1_000_000)
    )
    devices = {
        d.id: DeviceProfile(d.id, d.name, d.engine_version, 1e-5, 1e-6, points=points, peak_flops=1e11, power_w=power_w)
        for d in result
    }
    links = tuple(Link(a.id, b.id, 1e-5, None) for a in result for b in result if a.id != b.id)
    origin = Provenance("measured", platform.node(), "synthetic", "", "", {}, None)
    store.save(
        Profile(origin, "float32", devices, links, read_bandwidth_bytes_per_s=1e10),
        store.default_path(),
    )


def synthetic_comparison(model: Path, nodes: list[str], *, energy: bool = False, name: str = "") -> Comparison:
    """Five strategies on three devices, all but one with intervals, a peer, and one strategy that failed."""
    results = []
    for number, strategy in enumerate(("auto", "heft", "opclass", "exact", f"mine{name}")):
        latency_s = 0.002 + 0.001 * number
        interval_s = (latency_s * 0.9, latency_s * 1.25) if number != 1 else None
        moved = Event("t", "transfer", DEVICES[1].id, latency_s / 2, latency_s / 2, 0, 1000)
        halves = [
            Event("segment 0", "compute", DEVICES[0].id, 0.0, latency_s / 2),
            Event("segment 1", "compute", DEVICES[1].id, latency_s / 2, latency_s),
        ]
        results.append(
            ComparisonResult(
                name=strategy,
                kind="strategy",
                also=("random",) if number == 1 else (),
                same_as=None,
                devices=tuple(device.id for device in DEVICES[:2]),
                reality="simulated",
                latency_s=latency_s,
                latency_low_s=latency_s * 0.99,
                latency_high_s=latency_s * 1.02,
                turns=8,
                calls=80,
                throughput_hz=1 / latency_s,
                throughput_low_hz=0.9 / latency_s,
                throughput_high_hz=1.1 / latency_s,
                energy_j=0.05 - 0.005 * number if energy else None,
                energy_low_j=0.04 - 0.005 * number if energy else None,
                energy_high_j=0.06 - 0.005 * number if energy else None,
                peak_bytes=100_000_000,
                segments=2,
                transfers=1,
                transfer_bytes=1000,
                predicted=Timeline.of(halves, "predicted", latency_interval_s=interval_s),
                value=latency_s,
                value_low=interval_s[0] if interval_s is not None else None,
                value_high=interval_s[1] if interval_s is not None else None,
                bound=0.001,
                gap=latency_s / 0.001 - 1,
                max_abs=1e-7,
                max_rel=1e-6,
                ok=True,
                trace=Timeline.of([*halves, moved], "measured"),
                placement={node: DEVICES[i * 3 // len(nodes)].id for i, node in enumerate(nodes)},
                note="",
                failed=None,
                best=number == 0,
            )
        )
    peer = replace(
        results[0], name="A peer", kind="peer", also=(), segments=None, transfers=None, predicted=None, value=None,
        value_low=None, value_high=None, bound=None, gap=None, placement=None, best=False, latency_s=0.009,
        latency_low_s=None, latency_high_s=None,
    )  # fmt: skip
    broken = replace(peer, name="broken", kind="strategy", latency_s=None, trace=None, failed=f"no{name}", turns=0)
    return Comparison(
        model=model.name,
        path=str(model),
        model_sha256="0" * 64,
        shapes={"batch": 3},
        objective="latency",
        threads=None,
        seed=0,
        devices=DEVICES,
        results=(*results, peer, broken),
        date="2026-01-01T00:00:00+00:00",
        rounds=8,
        elapsed_s=10.0,
        resumed=False,
        interrupted=False,
        noise=MachineNoise(0.5, 0.01, None, 0.03, None),
        versions={"trisect": "1"},
    )
