"""Results of verifications are cached, whatever they are."""

from __future__ import annotations

import sys
from math import inf
from pathlib import Path

from trisect.partitioner.planning.plan_verification import PlanVerifier
from trisect.runtime.plans.check_result import PlanCheck


def test_infinite_differences_are_read_back(tmp_path: Path) -> None:
    verifier = PlanVerifier(tmp_path / "m.onnx", tmp_path / "verified.json")
    verifier._add("wrong", PlanCheck(False, max_abs=inf, max_rel=inf, wrong="another shape"))
    verifier._add("right", PlanCheck(True, max_abs=0.5))
    results = verifier._read()
    assert results["wrong"].max_abs == sys.float_info.max
    assert results["right"] == PlanCheck(True, max_abs=0.5)
