"""Small ONNX models in ONNX's own text form, fake costs, and a runner of plans that shares no code with trisect."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

from trisect.partitioner.graph.model_graph import Graph
from trisect.partitioner.planning.plan_maker import make_plan
from trisect.partitioner.planning.plan_request import DeviceData, PlanRequest
from trisect.partitioner.problem.constraints import read_constraints
from trisect.partitioner.problem.problem_builder import ProblemInputs
from trisect.partitioner.problem.task_grouping import task_graph
from trisect.partitioner.strategies import strategy
from trisect.profiles.costmodel.costs import Costs
from trisect.profiles.costmodel.link_cost import LinkCost
from trisect.profiles.costmodel.op_features import OpFeatures
from trisect.runtime.device import Device
from trisect.runtime.plans.plan import Plan
from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.problem.rules import Objective

CPU = Device("cpu:one", "cpu", "one", "a processor")
CPU2 = Device("cpu:two", "cpu", "two", "another")
GPU = Device("gpu:one", "gpu", "one", "a graphics card")
NPU = Device("npu:one", "npu", "one", "an accelerator")


@dataclass(frozen=True)
class FakeCosts(Costs):
    """Roofline costs; `flops_per_s` by device id, anything else at 1e10."""

    flops_per_s: tuple[tuple[str, float], ...] = ()
    copy_s: float = 1e-5
    overhead_s: float = 1e-5

    def node_time_s(self, features: OpFeatures, device_id: str) -> float:
        speed = dict(self.flops_per_s).get(device_id, 1e10)
        return 1e-6 + features.flops / speed + (features.bytes_read + features.bytes_written) / 1e10

    def link(self, src_id: str, dst_id: str) -> LinkCost:
        return LinkCost(self.copy_s, 1e10)

    def call_overhead_s(self, device_id: str) -> float:
        return self.overhead_s


def write(path: Path, text: str, weights: dict[str, np.ndarray] | None = None) -> Path:
    """Parse a model's text, add initialisers, check it and write it."""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in (weights or {}).items())
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


def mlp(path: Path, layers: int = 3, width: int = 32) -> Path:
    """x [batch, width] through `layers` of MatMul, Add, Relu; nodes unnamed."""
    rng = np.random.default_rng(0)
    lines, weights, value = [], {}, "x"
    for i in range(layers):
        weights[f"w{i}"] = (rng.standard_normal((width, width)) / width**0.5).astype(np.float32)
        weights[f"b{i}"] = rng.standard_normal(width).astype(np.float32)
        out = "y" if i == layers - 1 else f"r{i}"
        lines += [f"m{i} = MatMul({value}, w{i})", f"a{i} = Add(m{i}, b{i})", f"{out} = Relu(a{i})"]
        value = out
    body = "\n".join(lines)
    head = f'<ir_version: 8, opset_import: ["" : 17]> mlp (float[batch, {width}] x) => (float[batch, {width}] y)'
    return write(path, f"{head} {{ {body} }}", weights)


def shape_arithmetic(path: Path) -> Path:
    """Splits heads by a shape that is computed in the graph, as exporters write it."""
    text = """
    <ir_version: 8, opset_import: ["" : 17]> heads (float[batch, tokens, 64] x) => (float[batch, 4, tokens, 16] y) {
        s = Shape(x)
        zero = Constant<value = int64[1] {0}>()
        one = Constant<value = int64[1] {1}>()
        four = Constant<value = int64[1] {4}>()
        b = Gather(s, zero)
        t = Gather(s, one)
        wide = Constant<value = int64[1] {64}>()
        size = Div(wide, four)
        target = Concat<axis = 0>(b, t, four, size)
        split = Reshape(x, target)
        y = Transpose<perm = [0, 2, 1, 3]>(split)
    }"""
    return write(path, text)


def branching(path: Path) -> Path:
    """An `If` on a fed condition whose branches capture values of the outer graph."""
    text = """
    <ir_version: 8, opset_import: ["" : 17]> choose (bool go, float[2, 8] x) => (float[2, 8] y) {
        h = MatMul(x, w)
        k = Relu(x)
        z = If(go) <
            then_branch = yes () => (float[2, 8] p) { p = Add(h, k) },
            else_branch = no () => (float[2, 8] q) { u = Mul(h, w2) q = Sub(u, k) }
        >
        y = Tanh(z)
    }"""
    rng = np.random.default_rng(1)
    weights = {"w": rng.standard_normal((8, 8)).astype(np.float32), "w2": rng.standard_normal(8).astype(np.float32)}
    return write(path, text, weights)


def with_function(path: Path) -> Path:
    """A model-local function called twice."""
    text = """
    <ir_version: 8, opset_import: ["" : 17, "own" : 1]> outer (float[4] x) => (float[4] y) {
        h = own.double(x)
        y = own.double(h)
    }
    <domain: "own", opset_import: ["" : 17]> double (a) => (b) { b = Add(a, a) }
    """
    return write(path, text)


def external(folder: Path, location: str = "weights.data", length: int | None = None) -> Path:
    """A model with one external weight of 64 x 64 floats, whose entries the test may falsify."""
    path = folder / "model.onnx"
    text = """
    <ir_version: 8, opset_import: ["" : 17]> m (float[1, 64] x) => (float[1, 64] y) { y = MatMul(x, w) }"""
    model = onnx.parser.parse_model(text)
    weight = np.arange(64 * 64, dtype=np.float32).reshape(64, 64) / 4096
    (folder / "weights.data").write_bytes(b"\0" * 16 + weight.tobytes())
    tensor = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[64, 64])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entries = {"location": location, "offset": "16", "length": str(weight.nbytes if length is None else length)}
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    model.graph.initializer.append(tensor)
    path.write_bytes(model.SerializeToString())
    return path


def run_whole(path: Path, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The unsplit model on ONNX Runtime."""
    session = _session(path)
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))


def run_plan(plan: Plan, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A plan's segments one after the other, each checked and run on ONNX Runtime."""
    values = dict(feeds)
    for segment in plan.segments:
        path = Path(plan.folder) / segment.file
        onnx.checker.check_model(str(path))
        session = _session(path)
        names = [o.name for o in session.get_outputs()]
        assert names == [spec.name for spec in segment.outputs]
        values.update(
            zip(names, session.run(None, {i.name: values[i.name] for i in session.get_inputs()}), strict=True)
        )
    return {spec.name: values[spec.name] for spec in plan.outputs}


def _session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def inputs_of(graph: Graph, devices: Iterable[Device], costs: Costs, **more: Any) -> ProblemInputs:
    """Problem inputs of a model, with its own tasks unless others are given."""
    return ProblemInputs(graph, more.pop("tasks", None) or task_graph(graph), tuple(devices), costs, **more)


def split(
    path: Path,
    devices: Iterable[Device],
    costs: Costs,
    strategy: str = "auto",
    objective: Objective = "latency",
    shapes: Mapping[str, int] | None = None,
    seed: int = 0,
    out_folder: Path = Path("plan"),
    **more: Any,
) -> Plan:
    """Make a plan; further arguments are fields of `PlanRequest` and `DeviceData`."""
    known = {field.name for field in fields(DeviceData)}
    data = DeviceData(costs, **{key: more.pop(key) for key in list(more) if key in known})
    constraints = read_constraints(more.pop("constraints", None))
    request = PlanRequest(path, tuple(devices), strategy, objective, shapes or {}, constraints, seed=seed, **more)
    return make_plan(request, data, out_folder)


@strategy("test-blocks")
def blocks(problem: Problem, count: str = "4") -> dict[str, str]:
    """Stretches of the graph's order, devices by turns."""
    ids, tasks = problem.device_ids, list(problem.graph)
    return {task: ids[i * int(count) // len(tasks) % len(ids)] for i, task in enumerate(tasks)}


@strategy("test-random")
def scattered(problem: Problem, seed: str = "0") -> dict[str, str]:
    """Every task on a device drawn by lot."""
    rng = random.Random(int(seed))
    return {task: rng.choice(problem.device_ids) for task in problem.graph}
