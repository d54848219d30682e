"""A plan whose boundaries, inputs and outputs are lists, optionals and strings, and its outputs computed in numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from trisect.runtime.engines import find_devices
from trisect.runtime.engines.common.model_signature import read_signature
from trisect.runtime.plans.plan import Plan
from trisect.runtime.plans.plan_parts import Segment
from trisect.runtime.plans.timeline import Timeline


def lists_plan(folder: Path) -> Plan:
    """Three segments on ``cpu:ort`` and one on ``cpu:reference``."""
    floats = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
    sequence = helper.make_sequence_type_proto(floats)
    optional = helper.make_optional_type_proto(floats)
    maybe_list = helper.make_optional_type_proto(sequence)
    words = helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.STRING, None))
    of = helper.make_value_info
    x, text = of("x", floats), helper.make_tensor_value_info("text", TensorProto.STRING, ["t"])
    s, rows, more, back = (of(name, sequence) for name in ("s", "rows", "more", "back"))
    count = helper.make_tensor_value_info("count", TensorProto.INT64, [])
    spoken = helper.make_tensor_value_info("spoken", TensorProto.STRING, ["t"])
    total = of("total", floats)
    parts = [
        ("cpu:ort", [helper.make_node("SplitToSequence", ["x"], ["rows"], axis=0),
                     helper.make_node("SequenceInsert", ["s", "x"], ["more"])], [x, s], [rows, more]),
        ("cpu:reference", [helper.make_node("Optional", ["x"], ["maybe"]),
                           helper.make_node("Optional", ["more"], ["listed"]),
                           helper.make_node("SequenceConstruct", ["text", "text"], ["words"])],
         [x, more, text], [of("maybe", optional), of("listed", maybe_list), of("words", words)]),
        ("cpu:reference", [helper.make_node("OptionalGetElement", ["listed"], ["back"]),
                           helper.make_node("Constant", [], ["one"], value_int=1),
                           helper.make_node("SequenceAt", ["words", "one"], ["spoken"])],
         [of("listed", maybe_list), of("words", words)], [back, spoken]),
        ("cpu:ort", [helper.make_node("SequenceLength", ["back"], ["count"]),
                     helper.make_node("ConcatFromSequence", ["rows"], ["total"], axis=0)],
         [back, rows], [count, total]),
    ]  # fmt: skip
    segments = []
    for index, (device, nodes, inputs, outputs) in enumerate(parts):
        graph = helper.make_graph(nodes, "g", inputs, outputs)
        file = folder / f"lists-{index}.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), file)
        types = read_signature(file)
        segments.append(Segment(index, device, (f"node {index}",), types.inputs, types.outputs, file.name))
    made = {spec.name: spec for segment in segments for spec in (*segment.inputs, *segment.outputs)}
    return Plan(
        model="lists.onnx", model_sha256="", devices=tuple(find_devices("cpu:ort,cpu:reference")), placement={},
        segments=tuple(segments), transfers=(), inputs=tuple(made[name] for name in ("x", "s", "text")),
        outputs=tuple(made[name] for name in ("rows", "more", "maybe", "words", "back", "spoken", "count", "total")),
        strategy="by hand", objective="latency", seed=0, shapes={},
        predicted=Timeline.of([], source="predicted"), value=0.0, bound=0.0, folder=str(folder),
    )  # fmt: skip


def lists_feeds(rows: int) -> dict[str, object]:
    """Feeds of some size: the list holds tensors of several ranks, none of which is C-ordered, one empty."""
    rng = np.random.default_rng(rows)
    x = rng.standard_normal((rows, 4)).astype(np.float32)
    listed = [x.T, np.zeros((0, 2), np.float32), np.float32(3), x.astype(">f4"), x[::2]]
    return {"x": x, "s": listed, "text": np.array([f"wörd {rows}", ""], dtype=object)}


def assert_lists_right(feeds: dict[str, object], outputs: dict[str, np.ndarray]) -> None:
    """Check that outputs are bit for bit what numpy computes."""
    x, listed = feeds["x"], feeds["s"]
    same_tensors(outputs["rows"], [x[k : k + 1] for k in range(len(x))])
    more = [*(np.asarray(one).astype(np.float32) for one in listed), x]
    same_tensors(outputs["more"], more)
    same_tensors(outputs["back"], more)
    same_tensors([outputs["maybe"].item()], [x])
    assert [one.tolist() for one in outputs["words"]] == [feeds["text"].tolist()] * 2
    assert outputs["spoken"].tolist() == feeds["text"].tolist()
    assert outputs["count"] == len(more)
    same_tensors([outputs["total"]], [x])


def same_tensors(got, wanted) -> None:
    assert len(got) == len(wanted)
    for one, other in zip(got, wanted, strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert one.tobytes() == other.tobytes()
