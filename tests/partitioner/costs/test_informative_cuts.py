"""The cuts that are measured are those that tell most about the others."""

from __future__ import annotations

from trisect.partitioner.costs.informative_cuts import CandidateCut, most_informative
from trisect.profiles.costmodel.cost_terms import CostTerm
from trisect.profiles.costmodel.device_model import DeviceModel
from trisect.profiles.costmodel.regression import Regression

CALL = CostTerm("call")


def work(kind: str, size: float = 10.0) -> CostTerm:
    return CostTerm(kind, (("bytes", size),), (), 0.0, 1e6)


def cut(*segments: tuple[str, CostTerm]) -> CandidateCut:
    return CandidateCut(tuple((device, (term, CALL)) for device, term in segments))


MODELS = {"a": DeviceModel(Regression()), "b": DeviceModel(Regression())}


def test_a_cut_that_is_like_the_others_is_measured_before_an_odd_one() -> None:
    cuts = [cut(("a", work("pool", 3.0 + i / 10)), ("b", work("move", 3.0))) for i in range(6)]
    cuts.append(cut(("a", work("recurrent")), ("b", work("product"))))
    first, second = most_informative(cuts, MODELS, 2)
    assert first != 6
    assert second == 6  # what remains unknown then


def test_a_cut_is_chosen_once_and_no_more_than_there_are() -> None:
    cuts = [cut(("a", work("pool")), ("b", work("move"))), cut(("b", work("pool")), ("a", work("move")))]
    assert sorted(most_informative(cuts, MODELS, 5)) == [0, 1]
    assert most_informative([], MODELS, 3) == []


def test_devices_without_a_cost_model_are_left_out() -> None:
    cuts = [cut(("other", work("pool"))), cut(("a", work("pool")), ("other", work("move")))]
    assert most_informative(cuts, MODELS, 2) == [1]
