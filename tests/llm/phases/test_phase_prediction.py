"""Prediction and choice of a pair from synthetic curves, whose results can be calculated by hand."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from trisect.llm.phases.phase_prediction import PhasePrediction, predict_phases, rank_device_pairs
from trisect.llm.phases.phase_profile import DevicePhases, Handover, PhasePoint, PhaseProfile
from trisect.profiles.stored.profile_data import Provenance
from trisect.runtime.errors import ProfileMissing

Curve = dict[int, float]


def points(curve: Curve) -> tuple[PhasePoint, ...]:
    return tuple(PhasePoint(tokens, time_s, 0.0) for tokens, time_s in curve.items())


def synthetic(
    devices: dict[str, tuple[Curve, Curve]], handovers: dict[tuple[str, str], Curve] | None = None
) -> PhaseProfile:
    """A profile of devices given by their prefill and decode curves; by default handing over takes no time."""
    pairs = {pair: {1: 0.0} for pair in itertools.permutations(devices, 2)} if handovers is None else handovers
    return PhaseProfile(
        model="m",
        precision="fast",
        threads=None,
        provenance=Provenance("measured", "", "synthetic", "", "", {}, None),
        devices={id_: DevicePhases("x", "1", points(p), points(d), 0.0) for id_, (p, d) in devices.items()},
        handovers=tuple(Handover(*pair, points(curve)) for pair, curve in pairs.items()),
    )


def linear(prefill: float, decode: float) -> tuple[Curve, Curve]:
    """So much a prompt's token, so much a new one."""
    return {1: prefill, 1001: 1001 * prefill}, {1: decode, 1000: decode}


def best(profile: PhaseProfile, prompt: int, new: int) -> PhasePrediction:
    ids = list(profile.devices)
    return rank_device_pairs(profile, prefill=ids, decode=ids, prompt_tokens=prompt, new_tokens=new)[0]


def test_prefill_is_interpolated_and_extrapolated() -> None:
    profile = synthetic({"a": ({10: 1.0, 20: 2.0, 40: 6.0}, {1: 0.1, 2: 0.1})})

    def prefill(tokens: int) -> float:
        return predict_phases(profile, "a", "a", prompt_tokens=tokens, new_tokens=1).prefill_s

    assert prefill(10) == pytest.approx(1.0)
    assert prefill(15) == pytest.approx(1.5)
    assert prefill(30) == pytest.approx(4.0)
    assert prefill(50) == pytest.approx(8.0)
    assert prefill(3) == pytest.approx(1.0)  # never less than the shortest


def test_prefill_of_whole_chunks_has_stairs() -> None:
    profile = synthetic({"a": ({1: 1.1, 128: 1.0, 300: 3.0}, {1: 0.1})})
    profile = replace(profile, devices={"a": replace(profile.devices["a"], chunk_tokens=128)})
    times = [
        predict_phases(profile, "a", "a", prompt_tokens=n, new_tokens=1).prefill_s for n in (2, 128, 129, 257, 384, 385)
    ]
    assert times == pytest.approx([1.0, 1.0, 2.0, 3.0, 3.0, 4.0])


def test_a_curve_that_falls_is_not_followed_below_its_end() -> None:
    profile = synthetic({"a": ({10: 2.0, 20: 1.0}, {10: 0.2, 20: 0.1})})
    result = predict_phases(profile, "a", "a", prompt_tokens=1000, new_tokens=2)
    assert (result.prefill_s, result.decode_s) == (pytest.approx(1.0), pytest.approx(0.1))


def test_a_single_point_holds_for_all_lengths() -> None:
    profile = synthetic({"a": ({1: 2.0}, {1: 0.5})})
    result = predict_phases(profile, "a", "a", prompt_tokens=99, new_tokens=3)
    assert (result.prefill_s, result.decode_s) == (2.0, pytest.approx(1.0))


def test_decode_grows_with_the_context() -> None:
    profile = synthetic({"a": ({1: 1.0}, {100: 0.1, 200: 0.2})})
    result = predict_phases(profile, "a", "a", prompt_tokens=110, new_tokens=4)
    # The first new token comes out of the prefill; three more lie behind 110, 111 and 112 tokens.
    assert result.decode_s == pytest.approx(0.110 + 0.111 + 0.112)
    assert predict_phases(profile, "a", "a", prompt_tokens=110, new_tokens=1).decode_s == 0


def test_handing_over_counts_between_two_devices_only() -> None:
    profile = synthetic({"a": linear(1, 1), "b": linear(1, 1)}, {("a", "b"): {100: 0.1, 200: 0.3}})
    pair = predict_phases(profile, "a", "b", prompt_tokens=150, new_tokens=3)
    assert (pair.kv_s, pair.is_split) == (pytest.approx(0.2), True)
    assert pair.end_to_end_s == pytest.approx(150 + 0.2 + 2)
    single = predict_phases(profile, "a", "a", prompt_tokens=150, new_tokens=3)
    assert (single.kv_s, single.is_split) == (0, False)
    with pytest.raises(ProfileMissing, match="handing over from b to a"):
        predict_phases(profile, "b", "a", prompt_tokens=1, new_tokens=1)
    with pytest.raises(ProfileMissing, match="not measured on c"):
        predict_phases(profile, "a", "c", prompt_tokens=1, new_tokens=1)


@pytest.mark.parametrize("names", [("gpu:x", "npu:y"), ("npu:y", "gpu:x"), ("cpu:a", "cpu:b")])
def test_the_measurements_decide_not_the_kind_of_device(names: tuple[str, str]) -> None:
    quick_reader, quick_writer = names
    profile = synthetic({quick_reader: linear(0.001, 0.1), quick_writer: linear(0.01, 0.01)})
    result = best(profile, prompt=500, new=50)
    assert (result.prefill, result.decode) == (quick_reader, quick_writer)


def test_the_request_decides_too() -> None:
    devices = {"reader": linear(0.001, 0.02), "writer": linear(0.002, 0.01)}
    costly = {pair: {1: 0.2, 1000: 0.2} for pair in itertools.permutations(devices, 2)}
    profile = synthetic(devices, costly)
    assert (best(profile, 1000, 100).prefill, best(profile, 1000, 100).decode) == ("reader", "writer")
    assert best(profile, 16, 100).prefill == best(profile, 16, 100).decode == "writer"
    assert best(profile, 1000, 2).prefill == best(profile, 1000, 2).decode == "reader"


def test_a_gain_too_small_to_be_measured_is_no_reason_to_split() -> None:
    for gain, split in ((0.005, False), (0.03, True)):
        whole = 1000 * 0.01 + 100 * 0.01
        reader = 0.01 - gain * whole / 1000
        profile = synthetic({"a": linear(0.01, 0.01), "b": linear(reader, 1.0)})
        assert best(profile, 1000, 101).is_split is split


def test_all_pairs_come_the_best_first() -> None:
    devices = {"a": linear(0.003, 0.01), "b": linear(0.001, 0.03), "c": linear(0.002, 0.02)}
    profile = synthetic(devices)
    result = rank_device_pairs(profile, prefill=list(devices), decode=list(devices), prompt_tokens=300, new_tokens=30)
    assert {(p.prefill, p.decode) for p in result} == set(itertools.product(devices, repeat=2))
    times = [p.end_to_end_s for p in result]
    brute = {(a, b): 300 * devices[a][0][1] + 29 * devices[b][1][1] for a, b in itertools.product(devices, repeat=2)}
    assert times == pytest.approx(sorted(brute.values()))
    assert (result[0].prefill, result[0].decode) == min(brute, key=lambda pair: brute[pair])


def test_only_allowed_devices_are_chosen() -> None:
    profile = synthetic({"a": linear(0.001, 0.001), "b": linear(1, 1), "c": linear(1, 1)})
    result = rank_device_pairs(profile, prefill=["b"], decode=["c"], prompt_tokens=10, new_tokens=10)
    assert [(p.prefill, p.decode) for p in result] == [("b", "c")]
    result = rank_device_pairs(profile, prefill=["b", "c"], decode=["b"], prompt_tokens=10, new_tokens=10)
    assert [(p.prefill, p.decode) for p in result] == [("b", "b"), ("c", "b")]  # as good: the single comes first
