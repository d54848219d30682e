"""The formats that are fuzzed: valid files of each, how to mutate them, and the command or function that reads them."""

from __future__ import annotations

import io
import json
import random
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
from onnx import TensorProto, helper, numpy_helper

from .mutations import mutate_bytes, mutate_json, mutate_message, mutate_text, mutate_toml

Words = list[str]
Mutate = Callable[[bytes, random.Random], bytes]

_IMAGE = """<ir_version: 9, opset_import: ["": 18]> g (float[1, 3, 8, 8] x) => (float[1, 2] y)
    <float[4, 3, 3, 3] w, float[4, 2] v, float[4] scales = {1.0, 1.0, 2.0, 2.0}, int64[2] axes = {2, 3}> {
    c = Conv <pads = [1, 1, 1, 1]> (x, w)  r = Relu(c)  z = Resize <mode = "linear"> (r, , scales)
    m = ReduceMean <keepdims = 0> (z, axes)  p = MatMul(m, v)  y = Softmax(p) }"""
_SHAPES = """<ir_version: 9, opset_import: ["": 18]> g (float[2, n, 4] x, int64[2] ids) => (float[a, b] y, int64[k] t)
    <int64[1] one = {1}, int64[1] minus = {-1}, float[10, 4] table> {
    s = Shape(x)  first, rest = Split <axis = 0, num_outputs = 2> (s)  shape = Concat <axis = 0> (first, minus)
    e = Gather(table, ids)  four = Constant <value_ints = [4]> ()
    row = Concat <axis = 0> (minus, four)  q = Reshape(x, row)
    y = Add(q, e)  t, i = TopK(ids, one) }"""
_CONTROL = """<ir_version: 9, opset_import: ["": 18, "local": 1]>
    g (float[4] x, bool flag) => (float[4] y, seq(float[n]) parts)
    <int64 trips = {3}> {
    d = local.Twice(x)
    b = If <then_branch = then () => (float[4] t) { t = Neg(d) },
            else_branch = other () => (float[4] t) { t = Abs(d) }> (flag)
    y = Loop <body = body (int64 i, bool go, float[4] v) => (bool keep, float[4] w) {
            keep = Identity(go)  w = Add(v, b) }> (trips, flag, x)
    parts = SplitToSequence <keepdims = 1> (y) }
    <domain: "local", opset_import: ["": 18]> Twice (a) => (c) { c = Add(a, a) }"""
_CONSTRAINTS = b"""max_segments = 4
no_cpu_fallback = false
[force]
"op:Relu" = "cpu:ort"
[forbid]
"class:CONV" = "cpu:openvino"
"""
_STUDY = (
    b'[study]\nstrategies = ["heft", "opclass"]\nworkloads = ["random:layered?n=5"]\nseeds = [0]\ntime_limit_s = 2.0\n'
    b"stop_after_s = 5.0\nload = []\n"
)
_STG = b"""          2
          0          0  0
          1          5  1          0
          2          7  1          1
          3          0  1          2
"""
_POLICY = b'avoid = ["gpu"]\npower_preference = "low-power"\n'
_CLASS_TABLE = b'CONV = ["cpu"]\nMATMUL = ["gpu", "cpu:ort"]\n'
_TEMPLATE = b"""{% for m in messages %}
{% if loop.first and m['role'] != 'system' %}{{ 'You are a helper.' * 2 }}{% endif %}
{{ '<|' + m['role'] + '|>' + m['content'] | trim }}{% endfor %}
{% for i in range(3) %}{{ i ** 2 }}{% endfor %}{{ '%8d' % 5 }}"""
_NODE = {"supportedOnFpga": 1, "cpuLatency": 5.0, "fpgaLatency": 1.0, "isBackwardNode": 0, "colorClass": 0, "size": 1.0}
_PROBLEM = {
    "maxSizePerFPGA": 16.0,
    "maxFPGAs": 2,
    "maxCPUs": 1,
    "nodes": [{"id": number, **_NODE} for number in range(4)],
    "edges": [{"sourceId": number, "destId": number + 1, "cost": 0.5} for number in range(3)],
}


@dataclass(frozen=True)
class FuzzFormat:
    """One kind of file.

    Attributes
    ----------
    prepare : callable
        Writes valid files into a folder, once.
    file : str
        The one that is mutated.
    mutate : callable
    read : callable
        Takes the folder; returns the words of a command, or reads by itself and returns None.
    """

    prepare: Callable[[Path], None]
    file: str
    mutate: Mutate
    read: Callable[[Path], Words | None]


def _mutate_model(content: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.2:
        return mutate_bytes(content, rng)
    model = onnx.load_from_string(content)
    mutate_message(model, rng)
    return model.SerializeToString()


def _model(text: str) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        model = onnx.parser.parse_model(text)
        rng = np.random.default_rng(0)
        held = {tensor.name for tensor in model.graph.initializer}
        for value in [v for v in model.graph.value_info if v.name not in held]:
            shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
            model.graph.initializer.append(numpy_helper.from_array(rng.random(shape, np.float32), value.name))
        del model.graph.value_info[:]
        (folder / "m.onnx").write_bytes(model.SerializeToString())

    return prepare


def _external_model(folder: Path) -> None:
    weight = numpy_helper.from_array(np.ones((4, 4), np.float32), "w")
    empty = numpy_helper.from_array(np.zeros(0, np.float32), "none")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 4]) for name in "xy"]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Neg", ["m"], ["y"])]
    model = helper.make_model(
        helper.make_graph(nodes, "g", ends[:1], ends[1:], [weight, empty]), opset_imports=[helper.make_opsetid("", 18)]
    )
    onnx.save(model, folder / "m.onnx", save_as_external_data=True, size_threshold=0, location="m.data")


def _plan(folder: Path) -> None:
    from trisect.cli import main

    _model(_IMAGE)(folder)
    words = ["split", str(folder / "m.onnx"), "--devices", "cpu:ort", "--strategy", "single:cpu:ort"]
    assert main([*words, "-o", str(folder / "plan")]) == 0


def _plan_and_feeds(folder: Path) -> None:
    _plan(folder)
    np.savez_compressed(folder / "feeds.npz", x=np.ones((1, 3, 8, 8), np.float32))


def _llm_folder(folder: Path) -> None:
    from tests.llm.llm_folder_factory import write_optimum_folder

    write_optimum_folder(folder / "llm")


def _gguf(folder: Path) -> None:
    from tests.llm.gguf_factory import write_tiny_gguf

    write_tiny_gguf(folder / "m.gguf", "llama", "F32")


def _profile(folder: Path) -> None:
    from trisect.profiles import reference
    from trisect.profiles.stored import profile_store

    profile_store.save(reference.machine("intel-core-ultra-7-155h").profile, folder / "profile.json")


def _write(file: str, content: bytes) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        (folder / file).write_bytes(content)

    return prepare


def _model_and(file: str, content: bytes) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        _model(_IMAGE)(folder)
        (folder / file).write_bytes(content)

    return prepare


def _archive(kind: str) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        stream = io.BytesIO()
        if kind == "zip":
            with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("50/rand0.stg", _STG)
        else:
            with tarfile.open(fileobj=stream, mode="w:gz") as archive:
                entry = tarfile.TarInfo("50/rand0.stg")
                entry.size = len(_STG)
                archive.addfile(entry, io.BytesIO(_STG))
        (folder / "archive").write_bytes(stream.getvalue())

    return prepare


def _unpack(folder: Path) -> None:
    import hashlib

    from trisect.bench import archives

    content = (folder / "archive").read_bytes()
    archives.unpack(content, hashlib.sha256(content).hexdigest(), "archive", folder / "out")


def _tflite(folder: Path) -> None:
    from tests.trisect.context.tflite_factory import write_tflite

    write_tflite(folder / "m.tflite", [3, 25, 117])


def _capabilities(folder: Path) -> None:
    from trisect.profiles.capabilities.compile_verdicts import Capabilities, CompileProbe
    from trisect.runtime.engines import find_devices

    capabilities = Capabilities(folder / "capabilities.json")
    capabilities.record(CompileProbe("Neg float32[2]", bytes), find_devices("cpu:ort")[0], "it is not supported")
    capabilities.save()


def _read_capabilities(folder: Path) -> None:
    from trisect.profiles.capabilities.compile_verdicts import Capabilities, CompileProbe
    from trisect.runtime.engines import find_devices

    Capabilities(folder / "capabilities.json").known(CompileProbe("Neg float32[2]", bytes), find_devices("cpu:ort")[0])


def _read_policy(folder: Path) -> None:
    from trisect.context.policy_file import read_policy

    read_policy(folder / "policy.toml")


def _render_template(folder: Path) -> None:
    from trisect.llm.tokenization.chat_template import render_chat

    template = (folder / "chat_template.jinja").read_text(encoding="utf-8", errors="replace")
    render_chat(template, [{"role": "user", "content": "Hello"}])


def _read_problem(file: str) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        import trisect

        problem = trisect.Problem.read(folder / file, objective="throughput")
        if len(problem.graph) < 100 and len(problem.devices) < 20:
            trisect.solve(problem, strategy="heft")

    return read


def _read_profile(folder: Path) -> None:
    from trisect.profiles.stored import profile_store

    profile_store.load(folder / "profile.json")


def _can_run(file: str) -> Callable[[Path], Words]:
    return lambda folder: ["can-run", str(folder / file), "--devices", "cpu:ort"]


def _split(folder: Path) -> Words:
    out = ["-o", str(folder / "out")]
    return ["split", str(folder / "m.onnx"), "--devices", "cpu:ort", "--strategy", "single:cpu:ort", *out]


def _split_with(option: str, file: str) -> Callable[[Path], Words]:
    return lambda folder: [*_split(folder), option, str(folder / file)]


def _generate(file: str) -> Callable[[Path], Words]:
    devices = ["--prefill", "cpu:ort", "--decode", "cpu:ort", "--raw"]
    return lambda folder: ["generate", str(folder / file), "--prompt", "a b", "--max-new-tokens", "2", *devices]


FORMATS: Mapping[str, FuzzFormat] = {
    "onnx image, can-run": FuzzFormat(_model(_IMAGE), "m.onnx", _mutate_model, _can_run("m.onnx")),
    "onnx image, split": FuzzFormat(_model(_IMAGE), "m.onnx", _mutate_model, _split),
    "onnx shapes": FuzzFormat(
        _model(_SHAPES), "m.onnx", _mutate_model, lambda folder: [*_can_run("m.onnx")(folder), "--shape", "n=3"]
    ),
    "onnx control flow": FuzzFormat(_model(_CONTROL), "m.onnx", _mutate_model, _split),
    "onnx external data": FuzzFormat(_external_model, "m.onnx", _mutate_model, _split),
    "external data file": FuzzFormat(_external_model, "m.data", mutate_bytes, _split),
    "plan.json, explain": FuzzFormat(_plan, "plan/plan.json", mutate_json, lambda f: ["explain", str(f / "plan")]),
    "plan.json, run": FuzzFormat(
        _plan, "plan/plan.json", mutate_json, lambda f: ["run", str(f / "plan"), "--repeat", "1"]
    ),
    "segment of a plan": FuzzFormat(
        _plan, "plan/segment_000.onnx", _mutate_model, lambda f: ["run", str(f / "plan"), "--repeat", "1"]
    ),
    "feeds.npz": FuzzFormat(
        _plan_and_feeds,
        "feeds.npz",
        mutate_bytes,
        lambda f: ["run", str(f / "plan"), "--repeat", "1", "--feeds", str(f / "feeds.npz"), "-o", str(f / "out.npz")],
    ),
    "gguf, can-run": FuzzFormat(_gguf, "m.gguf", mutate_bytes, _can_run("m.gguf")),
    "gguf, generate": FuzzFormat(_gguf, "m.gguf", mutate_bytes, _generate("m.gguf")),
    "tokenizer.json": FuzzFormat(_llm_folder, "llm/tokenizer.json", mutate_json, _generate("llm")),
    "config.json": FuzzFormat(_llm_folder, "llm/config.json", mutate_json, _generate("llm")),
    "config.json, can-run": FuzzFormat(_llm_folder, "llm/config.json", mutate_json, _can_run("llm/config.json")),
    "tokenizer_config.json": FuzzFormat(_llm_folder, "llm/tokenizer_config.json", mutate_json, _generate("llm")),
    "chat template": FuzzFormat(
        _write("chat_template.jinja", _TEMPLATE), "chat_template.jinja", mutate_text, _render_template
    ),
    "language model graph": FuzzFormat(_llm_folder, "llm/model.onnx", _mutate_model, _generate("llm")),
    "constraints.toml": FuzzFormat(
        _model_and("c.toml", _CONSTRAINTS), "c.toml", mutate_toml, _split_with("--constraints", "c.toml")
    ),
    "op-class table": FuzzFormat(
        _model_and("t.toml", _CLASS_TABLE),
        "t.toml",
        mutate_toml,
        lambda f: [*_split(f)[:4], "--strategy", f"opclass:{f / 't.toml'}", "-o", str(f / "out")],
    ),
    "policy.toml": FuzzFormat(_write("policy.toml", _POLICY), "policy.toml", mutate_toml, _read_policy),
    "study.toml": FuzzFormat(
        _write("study.toml", _STUDY), "study.toml", mutate_toml, lambda f: ["bench", "study", str(f / "study.toml")]
    ),
    "task graph, STG": FuzzFormat(_write("t.stg", _STG), "t.stg", mutate_text, _read_problem("t.stg")),
    "problem.json": FuzzFormat(
        _write("p.json", json.dumps(_PROBLEM).encode()), "p.json", mutate_json, _read_problem("p.json")
    ),
    "profile.json": FuzzFormat(_profile, "profile.json", mutate_json, _read_profile),
    "capabilities.json": FuzzFormat(_capabilities, "capabilities.json", mutate_json, _read_capabilities),
    "tflite": FuzzFormat(_tflite, "m.tflite", mutate_bytes, _can_run("m.tflite")),
    "zip archive": FuzzFormat(_archive("zip"), "archive", mutate_bytes, _unpack),
    "tar archive": FuzzFormat(_archive("tar"), "archive", mutate_bytes, _unpack),
}
"""By name, which also seeds the mutations."""


def write_mutant(format_name: str, number: int, valid: Path, folder: Path) -> None:
    """Copy the valid files of a format, with one file mutated, the same for the same number; unchanged if negative."""
    form = FORMATS[format_name]
    shutil.copytree(valid, folder)
    if number < 0:
        return
    path = folder / form.file
    path.write_bytes(form.mutate(path.read_bytes(), random.Random(f"{format_name} {number}")))
