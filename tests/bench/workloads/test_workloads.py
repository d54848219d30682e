"""Workloads: drawn the same everywhere, of the shape that was asked for, with where they come from."""

from __future__ import annotations

import hashlib
from pathlib import Path
from random import Random

import networkx as nx
import pytest

from tests.placement_data import benchmark
from trisect.bench import datasets, workloads
from trisect.bench.workloads import Workload, WorkloadInstance, all_workloads, choices, instances
from trisect.bench.workloads._shapes import SHAPES
from trisect.profiles.costmodel.op_features import OpClass
from trisect.runtime.errors import InvalidInput, InvalidModel, StorageFailed, TrisectError
from trisect.scheduler.problem.problem import Problem

SHAPE_NAMES = sorted(SHAPES)


def problem(text: str, seed: int = 0) -> Problem:
    (choice,) = choices(text)
    return instances(choice, [seed], None)[0].make()


def test_every_workload_says_whose_it_is() -> None:
    result = {w.name for w in all_workloads()}
    assert {
        "dnn-partitioning",
        "stg",
        "onnx-light",
        "onnx-node",
        "packages",
        "model",
        "llm",
        "random",
        "problems",
    } <= result
    assert all(w.provenance and w.licence for w in all_workloads())


@pytest.mark.parametrize("shape", SHAPE_NAMES)
@pytest.mark.parametrize("n", [1, 2, 3, 10, 57])
def test_a_random_graph_has_the_tasks_asked_for_and_no_cycle(shape: str, n: int) -> None:
    for seed in range(5):
        edges = SHAPES[shape](Random(seed), n, 3, 2.0)
        assert len(set(edges)) == len(edges)
        assert all(0 <= a < b < n for a, b in edges)


def test_shapes_are_what_they_are_called() -> None:
    graph = nx.DiGraph(SHAPES["fork-join"](Random(0), 60, 4, 3.0))
    assert nx.is_weakly_connected(graph)
    assert len(graph) == 60
    assert [n for n in graph if not graph.pred[n]] == [0]
    assert [n for n in graph if not graph.succ[n]] == [59]
    assert max(d for _, d in graph.out_degree()) <= 4
    series = nx.DiGraph(SHAPES["series-parallel"](Random(1), 40, 3, 2.0))
    # A graph is series-parallel if joining what is in series or in parallel leaves one edge.
    multi = nx.MultiDiGraph(series)
    changed = True
    while changed:
        changed = False
        for node in list(multi):
            if multi.in_degree(node) == 1 and multi.out_degree(node) == 1:
                (a, _), (_, b) = next(iter(multi.in_edges(node))), next(iter(multi.out_edges(node)))
                multi.remove_node(node)
                if not multi.has_edge(a, b):
                    multi.add_edge(a, b)
                changed = True
    assert multi.number_of_edges() == 1
    layered = nx.DiGraph(SHAPES["layered"](Random(2), 200, 5, 2.0))
    generations = list(nx.topological_generations(layered))
    assert max(map(len, generations)) <= 2 * 5
    assert len(generations) >= 200 / 10


GOLDEN = {
    "erdos-renyi": "99033177f9dfde0c",
    "fork-join": "2d8ef9f736b34a59",
    "layered": "91cdd688c2deb224",
    "series-parallel": "6b959ceaaf65eb73",
}


def fingerprint(p: Problem) -> str:
    """Bits of all that a problem says."""
    lines = [f"{task} {[t.hex() for t in times]}" for task, times in p.times_s.items()]
    lines += [f"{a} {b} {sorted(data['tensors'].items())}" for a, b, data in p.graph.edges(data=True)]
    ids = p.device_ids
    lines += [f"{a} {b} {p.transfer_time(12345, a, b).hex()}" for a in ids for b in ids]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


@pytest.mark.parametrize("shape", SHAPE_NAMES)
def test_a_seed_gives_the_same_bits_on_every_machine(shape: str) -> None:
    assert fingerprint(problem(f"random:{shape}?n=40&ccr=0.7", seed=11)) == GOLDEN[shape]


def test_seeds_and_settings_change_what_is_drawn() -> None:
    result = {
        fingerprint(problem(f"random:layered?{text}", seed)) for text in ("n=20", "n=20&ccr=2") for seed in (0, 1)
    }
    assert len(result) == 4


@pytest.mark.parametrize("ccr", [0.1, 1.0, 10.0])
def test_the_ratio_of_communication_to_computation_is_what_was_asked(ccr: float) -> None:
    p = problem(f"random:layered?n=3000&ccr={ccr}&affinity=0&heterogeneity=0")
    times = [row[0] for row in p.times_s.values()]
    assert all(len(set(row)) == 1 for row in p.times_s.values())
    sizes = {a: size for a, _, data in p.graph.edges(data=True) for size in data["tensors"].values()}
    moved = [p.transfer_time(size, *p.device_ids[:2]) for size in sizes.values()]
    assert sum(moved) / len(moved) / (sum(times) / len(times)) == pytest.approx(ccr, rel=0.1)
    assert all((t * 2**30).is_integer() for t in [*times, *moved])


def test_affinity_makes_devices_like_different_work() -> None:
    def spread(affinity: float) -> float:
        rows = problem(f"random:layered?n=500&heterogeneity=0&affinity={affinity}").times_s.values()
        return max(max(row) / min(row) for row in rows)

    assert spread(0.0) == 1.0
    assert 1.0 < spread(0.3) < spread(1.0) <= 16.01  # times are rounded to the grid


def test_settings_with_several_values_make_a_workload_of_each() -> None:
    assert [c.text for c in choices("random:layered?n=5,6&ccr=1,2")] == [
        f"random:layered?ccr={ccr}&n={n}" for ccr in (1, 2) for n in (5, 6)
    ]


def test_a_package_of_others_offers_a_workload(monkeypatch: pytest.MonkeyPatch) -> None:
    class Entry:
        name = "theirs"

        def load(self) -> Workload:
            return Workload(
                "theirs", "them", "MIT", lambda request: [WorkloadInstance("one", lambda: problem("random:layered"))]
            )

    monkeypatch.setattr(workloads, "entry_points", lambda group: [Entry()] if group == "trisect.workloads" else [])
    monkeypatch.setattr(workloads, "_REGISTERED", dict(workloads._REGISTERED))
    workloads._load_all.__wrapped__()
    assert len(problem("theirs").graph) == 50


def test_models_are_problems_of_a_published_machine() -> None:
    p = problem("onnx-light?only=squeezenet&machine=nvidia-h200")
    assert [d.reality for d in p.devices] == ["published", "published"]
    assert any(p.graph.nodes[n]["features"].op_class is OpClass.CONV for n in p.graph)
    assert all((t * 2**40).is_integer() for row in p.times_s.values() for t in row if t < float("inf"))


def test_reading_and_writing_a_language_model_are_different_problems() -> None:
    (choice,) = choices("llm:smollm2-135m?tokens=64")
    prefill, decode = (i.make() for i in instances(choice, [0], None))

    def classes(p: Problem) -> list[OpClass]:
        return [p.graph.nodes[n]["features"].op_class for n in p.graph]

    assert OpClass.MATMUL in classes(prefill)
    assert OpClass.MATMUL not in classes(decode)
    # Embedding aside, a token costs two operations for each weight of the layers and the projection to the vocabulary.
    flops = sum(operator.flops for _, operators in decode.graph.nodes(data="operators") for operator in operators)
    assert flops == pytest.approx(2 * 134.5e6, rel=0.05)


def test_small_graphs_of_onnxs_own_tests() -> None:
    (choice,) = choices("onnx-node?limit=3&only=expanded")
    result = instances(choice, [0], None)
    assert len(result) == 3
    assert all(len(i.make().graph) > 1 for i in result)


def test_a_users_own_models_by_pattern(tmp_path: Path) -> None:
    from importlib.resources import files

    source = Path(str(files("onnx"))) / "backend" / "test" / "data" / "light" / "light_zfnet512.onnx"
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "net.onnx").write_bytes(source.read_bytes())
    (choice,) = choices(f"model:{tmp_path}/*/net.onnx")
    assert [len(i.make().graph) for i in instances(choice, [0], None)] == [30, 30]
    with pytest.raises(InvalidInput, match="shapes"):
        instances(choices(f"model:{tmp_path}/a?shapes=batch")[0], [0], None)


def test_published_graphs_under_the_objective_of_their_folder() -> None:
    benchmark("dnn-partitioning")
    (choice,) = choices("dnn-partitioning?only=bert24_inference")
    result = {i.name: i.make() for i in instances(choice, [0], None)}
    latency = [p for name, p in result.items() if name.startswith("latency")]
    assert {p.objective for p in latency} == {"latency"}
    assert sorted(p.rules.contiguous for name, p in result.items() if name.startswith("throughput")) == [False, True]
    (only,) = instances(choice, [0], "latency")
    assert only.name.startswith("latency")


def test_task_graphs_carry_their_published_optimum() -> None:
    benchmark("stg")
    (choice,) = choices("stg?processors=2&only=100_rand0000")
    (result,) = instances(choice, [0], None)
    assert result.known_bound == 291
    with pytest.raises(InvalidInput, match="objective is latency"):
        instances(choice, [0], "throughput")


def test_absent_data_says_where_it_is_published(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="kasahara"):
        instances(choices(f"stg?folder={tmp_path}/none")[0], [0], None)


def test_fetching_checks_what_comes(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "latency-inputs").mkdir(parents=True)
    content = b'{"maxFPGAs": 1}'
    (source / "latency-inputs" / "a.json").write_bytes(content)
    file = datasets.DataFile("latency-inputs/a.json", len(content), hashlib.sha256(content).hexdigest())
    result = datasets.fetch(tmp_path / "to", source=source.as_uri(), files=[file])
    assert result[0].read_bytes() == content
    (source / "latency-inputs" / "a.json").write_bytes(b'{"maxFPGAs": 2}')
    assert datasets.fetch(tmp_path / "to", source=source.as_uri(), files=[file]) == result  # there already
    with pytest.raises(InvalidModel, match="expected"):
        datasets.fetch(tmp_path / "other", source=source.as_uri(), files=[file])
    assert not list((tmp_path / "other").rglob("*.json"))
    with pytest.raises(StorageFailed, match="cannot download"):
        datasets.fetch(tmp_path / "other", source=(tmp_path / "nowhere").as_uri(), files=[file])
    assert all(len(f.sha256) == 64 for f in datasets.FILES)


def test_single_tasks_have_no_throughput() -> None:
    with pytest.raises(InvalidInput, match="rules=segments"):
        instances(choices("random:layered")[0], [0], "throughput")
    assert instances(choices("random:layered?rules=segments")[0], [0], "throughput")[0].make().objective == "throughput"


def test_random_graphs_of_absurd_sizes_are_refused() -> None:
    for text in ("n=10000000", "devices=0", "ccr=-1", "degree=nan", "affinity=2", "rules=mine", "width=99"):
        with pytest.raises(TrisectError):
            problem(f"random:layered?{text}")
