"""Constraints: how they are read, applied to a problem, and reported when they cannot be satisfied."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import networkx as nx
import pytest

from trisect.partitioner.problem.constrained_problem import constrained
from trisect.partitioner.problem.constraints import Constraints, parse_pairs, read_constraints, size_of
from trisect.profiles.costmodel.op_features import OpClass, OpFeatures
from trisect.runtime.device import Device
from trisect.runtime.errors import FallbackForbidden, InfeasibleProblem, InvalidInput, TrisectError, UnknownDevice
from trisect.scheduler.problem.problem import Problem
from trisect.scheduler.problem.rules import Rules

CPU, GPU, NPU = Device("cpu:a", "cpu", "a", ""), Device("gpu:b", "gpu", "b", ""), Device("npu:c", "npu", "c", "")
IDS = [CPU.id, GPU.id, NPU.id]


def features(op_type: str, op_class: OpClass) -> OpFeatures:
    return OpFeatures(op_type, op_class, 1e6, 1000, 1000, 0, "float32")


def problem(**changes: Any) -> Problem:
    """first (two nodes, one of them com.microsoft's) -> middle -> last; middle does not run on the NPU."""
    graph: nx.DiGraph[str] = nx.DiGraph()
    inner = features("QuantizeLinear", OpClass.ELEMENTWISE)
    conv = features("com.microsoft::FusedConv", OpClass.CONV)
    graph.add_node("first", nodes=("first", "encoder/quantize"), operators=(conv, inner), features=conv)
    graph.add_node("middle", features=features("Softmax", OpClass.NORM))
    graph.add_node("last", features=features("MatMul", OpClass.MATMUL))
    nx.add_path(graph, ["first", "middle", "last"])
    times = {task: dict.fromkeys(IDS, 1.0) for task in graph}
    del times["middle"][NPU.id]
    options = {"rules": Rules(sizes_bytes={"first": 300.0, "last": 500.0}), **changes}
    return Problem.of(graph, [CPU, GPU, NPU], times, **options)


@pytest.mark.parametrize(
    ("selector", "selected"),
    [
        ("middle", ["middle"]),
        ("encoder/quantize", ["first"]),
        ("re:(middle|last)", ["middle", "last"]),
        ("re:encoder/.*", ["first"]),
        ("op:Softmax", ["middle"]),
        ("op:FusedConv", ["first"]),
        ("op:com.microsoft::FusedConv", ["first"]),
        ("op:QuantizeLinear", ["first"]),
        ("class:matmul", ["last"]),
    ],
)
def test_selectors_select_by_name_pattern_operator_and_class(selector: str, selected: list[str]) -> None:
    narrow = constrained(problem(), Constraints(force={selector: "cpu"}))
    assert [task for task in narrow.graph if narrow.allowed(task) == [CPU.id]] == selected


@pytest.mark.parametrize(
    ("constraints", "message"),
    [
        ({"force": {"midle": "cpu"}}, "'midle' matches nothing in this model; did you mean 'middle'"),
        ({"force": {"op:Softmaxx": "cpu"}}, "did you mean 'op:Softmax'"),
        ({"forbid": {"class:matmull": "cpu"}}, "did you mean 'class:matmul'"),
        ({"forbid": {"class:recurrent": "cpu"}}, "'class:recurrent' matches nothing"),
        ({"forbid": {"re:decoder.*": "cpu"}}, "'re:decoder.*' matches nothing"),
        ({"forbid": {"re:(": "cpu"}}, r"invalid regular expression 're:\('"),
        ({"colocate": [["middle", "missing"]]}, "'missing' matches nothing"),
    ],
)
def test_what_matches_nothing_is_refused_with_the_nearest(constraints: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        constrained(problem(), read_constraints(constraints))


def test_a_constant_may_be_named_and_nothing_follows() -> None:
    whole = problem()
    narrow = constrained(whole, Constraints(force={"shape_1": "gpu", "re:shape_.*": "cpu"}), constants={"shape_1"})
    assert narrow.times_s == whole.times_s


def test_kinds_and_lists_of_devices() -> None:
    narrow = constrained(problem(), Constraints(force={"first": "gpu,npu"}, forbid={"last": "gpu:b,npu"}))
    assert narrow.allowed("first") == [GPU.id, NPU.id]
    assert narrow.allowed("last") == [CPU.id]
    with pytest.raises(UnknownDevice, match=r"no device 'gpu:x'.*there are: cpu:a, gpu:b, npu:c"):
        constrained(problem(), Constraints(forbid={"last": "gpu:x"}))


def test_a_device_that_is_gone_may_be_named() -> None:
    gone = Device("gpu:z", "gpu", "z", "")
    constraints = Constraints(forbid={"last": "gpu:z"})
    assert constrained(problem(), constraints, absent=[gone]).times_s == problem().times_s
    with pytest.raises(InfeasibleProblem, match="'last' forces it to gpu:z"):
        constrained(problem(), Constraints(force={"last": "gpu:z"}), absent=[gone])


@pytest.mark.parametrize(
    ("constraints", "message"),
    [
        (
            {"force": {"last": "cpu", "op:MatMul": "gpu"}},
            r"node 'last' \(MatMul\).*'op:MatMul' forces it to gpu.*'last' forces it to cpu",
        ),
        (
            {"force": {"last": "cpu"}, "forbid": {"op:MatMul": "cpu"}},
            "forbidden by 'op:MatMul'.*'last' forces it to cpu",
        ),
        ({"force": {"middle": "npu"}}, r"node 'middle' \(Softmax\).*npu:c \(cannot run it\)"),
        (
            {"force": {"first": "cpu", "last": "gpu"}, "colocate": [["first", "last"]]},
            "no device may run all of 'first', 'last', which must run on one",
        ),
        ({"memory": {"cpu": 100, "gpu": 100, "npu": 100}}, "the weights of 'first' take 300 bytes"),
        (
            {"memory": {"cpu": 500, "gpu": 100, "npu": 100}},
            "the weights take 800 bytes, more than the 700 of all devices",
        ),
    ],
)
def test_contradictions_are_one_line_that_names_both_sides(constraints: dict[str, Any], message: str) -> None:
    with pytest.raises(InfeasibleProblem, match=message) as caught:
        constrained(problem(), read_constraints(constraints))
    assert "\n" not in str(caught.value)


def test_without_cpu_fallback_the_cpu_gets_only_what_is_forced_to_it() -> None:
    narrow = constrained(problem(), Constraints(cpu_fallback=False))
    assert [narrow.allowed(task) for task in narrow.graph] == [[GPU.id, NPU.id], [GPU.id], [GPU.id, NPU.id]]
    with pytest.raises(
        FallbackForbidden, match=r"only a CPU could run node 'middle' \(Softmax\).*gpu:b \(forbidden by"
    ):
        constrained(problem(), Constraints(forbid={"op:Softmax": "gpu"}, cpu_fallback=False))
    forced = Constraints(force={"middle": "cpu"}, cpu_fallback=False)
    assert constrained(problem(), forced).allowed("middle") == [CPU.id]
    alone = Problem.of(nx.DiGraph([("x", "y")]), [CPU], lambda *_: 1.0)
    with pytest.raises(FallbackForbidden, match="no device left without CPU fallback: only cpu:a"):
        constrained(alone, Constraints(cpu_fallback=False))


def test_groups_that_share_a_member_are_one() -> None:
    narrow = constrained(problem(), Constraints(colocate=(("first", "middle"), ("op:MatMul", "middle"))))
    assert [set(group) for group in narrow.rules.colocated] == [{"first", "middle", "last"}]


def test_memory_is_the_least_of_what_is_there_and_what_is_allowed() -> None:
    narrow = constrained(problem(), Constraints(memory={"gpu": 600, "cpu:a": 700}))
    assert [device.memory_bytes for device in narrow.devices] == [700, 600, None]


def test_a_file_a_mapping_and_the_dataclass_say_the_same(tmp_path: Path) -> None:
    file = tmp_path / "demands.toml"
    file.write_text(
        """
        cpu_fallback = false
        max_segments = 3
        colocate = [["first", "op:Softmax"]]
        [force]
        "re:enc.*" = "gpu"
        [forbid]
        last = ["gpu:b", "npu"]
        [memory]
        gpu = "1.5 kB"
        """
    )
    expected = Constraints(
        force={"re:enc.*": "gpu"},
        forbid={"last": "gpu:b,npu"},
        colocate=(("first", "op:Softmax"),),
        max_segments=3,
        cpu_fallback=False,
        memory={"gpu": 1500},
    )
    assert read_constraints(file) == read_constraints(str(file)) == expected
    assert read_constraints(expected.plain()) == read_constraints(expected) == expected
    assert read_constraints(None) == Constraints()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"forbidden": {}}, "unknown constraint 'forbidden'; did you mean forbid"),
        ({"max_segments": 0}, "expected `int` >= 1 in max_segments, found 0"),
        ({"max_segments": True}, "expected `int | null`, got `bool` in max_segments, found True"),
        ({"cpu_fallback": "no"}, "expected `bool`, got `str` in cpu_fallback, found 'no'"),
        ({"force": ["a"]}, "expected `object`, got `array` in force, found"),
        ({"forbid": {"a": [1]}}, r"expected `str`, got `int` in forbid, found {'a': \[1\]}"),
        ({"forbid": {"a": ""}}, "expected `str` of length >= 1 in forbid, found {'a': ''}"),
        ({"colocate": "a,b"}, "expected `array`, got `str` in colocate, found 'a,b'"),
        ({"memory": {"gpu": "4 parsec"}}, "memory of gpu '4 parsec': expected a number of bytes"),
        ({"memory": {"gpu": -1}}, "memory of gpu -1: expected a number of bytes"),
    ],
)
def test_invalid_constraints_are_refused(value: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        read_constraints(value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("force = {")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    for name in ("bad.toml", "binary.toml"):
        with pytest.raises(InvalidInput, match=r"cannot be read: (invalid TOML|it is not UTF-8)"):
            read_constraints(tmp_path / name)
    with pytest.raises(InvalidInput, match="cannot read the constraints"):
        read_constraints(tmp_path / "nothing.toml")


def test_pairs_of_the_command_line() -> None:
    assert parse_pairs(["a=gpu", "a=npu"], "--forbid") == {"a": "gpu,npu"}
    for text in ("gpu", "=gpu", "op:Softmax="):
        with pytest.raises(InvalidInput, match=r"invalid --force .*: expected SELECTOR=DEVICE"):
            parse_pairs([text], "--force")
    assert size_of("2KiB") == 2048


def test_everything_raised_is_of_our_tree() -> None:
    for error in (InvalidInput, InfeasibleProblem, FallbackForbidden, UnknownDevice):
        assert issubclass(error, TrisectError)
