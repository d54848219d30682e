"""The table of `opclass`: its rules, and what a file may change."""

from __future__ import annotations

from pathlib import Path

import networkx as nx
import pytest

from tests.partitioner import small_models
from trisect.partitioner.graph.model_graph import Graph
from trisect.partitioner.problem.task_grouping import task_graph
from trisect.partitioner.strategies import propose
from trisect.partitioner.strategies.common.class_table import ClassTable, read_table
from trisect.profiles.costmodel.op_features import OpClass, OpFeatures
from trisect.runtime.device import Device
from trisect.runtime.errors import InvalidInput
from trisect.scheduler.problem.problem import Problem

DEVICES = [Device(f"{kind}:x", kind, "x", "") for kind in ("cpu", "gpu", "npu")]


def work(op_class: OpClass, size: int = 10**7) -> OpFeatures:
    return OpFeatures("Op", op_class, float(size), size, size, 0, "float32")


@pytest.mark.parametrize(
    ("batch", "device"), [(1, "npu:x"), (8, "npu:x"), (9, "gpu:x"), (32, "gpu:x"), (33, "gpu:x"), (None, "gpu:x")]
)
def test_small_batches_go_to_the_npu(batch: int | None, device: str) -> None:
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_node("conv", features=work(OpClass.CONV), batch=batch)
    problem = Problem.of(graph, DEVICES, lambda *_: 1.0)
    assert propose(problem, "opclass").placement == {"conv": device}


def test_a_file_changes_the_table(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text(
        """
        [kinds]
        recurrent = "cpu"
        norm = "gpu"
        [batch]
        classes = ["matvec"]
        few = 2
        few_kind = "cpu"
        many = 16
        many_kind = "gpu"
        [small]
        flops = 10
        bytes = 20
        kind = "npu"
        """
    )
    table = read_table(file)
    assert [table.kind_of(work(OpClass.RECURRENT), 1), table.kind_of(work(OpClass.NORM), 1)] == ["cpu", "gpu"]
    assert [table.kind_of(work(OpClass.MATVEC), n) for n in (2, 3, 15, 16, None)] == ["cpu", "npu", "npu", "gpu", "npu"]
    assert table.kind_of(work(OpClass.CONV), 1) == "gpu"
    assert [table.kind_of(work(OpClass.CONV, size), 1) for size in (10, 11)] == ["npu", "gpu"]
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_node("lstm", features=work(OpClass.RECURRENT))
    problem = Problem.of(graph, DEVICES, lambda *_: 1.0)
    assert propose(problem, f"opclass:{file}").placement == {"lstm": "cpu:x"}
    assert propose(problem, "opclass").placement == {"lstm": "gpu:x"}
    (tmp_path / "empty.toml").write_text("")
    assert read_table(tmp_path / "empty.toml") == ClassTable()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[kinds]\nmatmull = "gpu"', "no class 'matmull'; did you mean matmul"),
        ('[kinds]\nmatmul = "tpu"', "no kind of device 'tpu'"),
        ("[kind]\n", "no section 'kind'; did you mean kinds"),
        ("kinds = 3", r"expected a section \[kinds\], found a value"),
        ("[batch]\nfew = 40", "expected few below many, found few = 40 and many = 33"),
        ("[batch]\nfew = -1", "few: expected a whole number of at least 0, found -1"),
        ("[batch]\nsome = 1", r"\[batch\] has no 'some'"),
        ("[batch]\nclasses = 3", "expected a list of classes, found 3"),
        ("[small]\nflop = 1", r"\[small\] has no 'flop'; did you mean flops"),
        ("[kinds", "is not a table of kinds: invalid TOML: Expected"),
    ],
)
def test_invalid_tables_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(InvalidInput, match=message):
        read_table(tmp_path / "bad.toml")


def test_a_missing_table(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot read the table"):
        read_table(tmp_path / "nothing.toml")


def test_the_batch_is_read_from_the_model(tmp_path: Path) -> None:
    path = small_models.mlp(tmp_path / "m.onnx", layers=1)
    assert set(dict(task_graph(Graph.read(path, {"batch": 5})).nodes(data="batch")).values()) == {5}
