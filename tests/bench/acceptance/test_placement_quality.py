"""The rows of the placement measurement agree with the solver."""

from __future__ import annotations

from tests.placement_data import benchmark
from trisect.bench.acceptance.placement_quality import bench_placement
from trisect.bench.acceptance.problem_variants import VARIANTS


def test_rows_of_the_bench() -> None:
    benchmark("dnn-partitioning/throughput/layer/bert24_inference.json")
    result = bench_placement(only="throughput/layer/bert24", time_limit_s=1.0)
    contiguous, anywhere = result.runs
    assert contiguous.met
    assert (contiguous.gap, contiguous.violations) == (0.0, 0)
    assert anywhere.bound > 17.69  # by packing: one of six accelerators gets five of the 26 large layers
    assert set(result.versions) == {"python", "trisect", "ortools", "numpy"}
    relatives = bench_placement(only="latency/layer/bert24", time_limit_s=1.0, variants=True)
    assert [run.variant for run in relatives.runs] == [name for name in VARIANTS if name != "training"]
    assert relatives.met
