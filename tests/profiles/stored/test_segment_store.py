"""Measured segments must survive on disk unchanged, and damaged files must be refused."""

from __future__ import annotations

import json
import random
from math import exp
from pathlib import Path

import pytest

from trisect.profiles.costmodel.cost_terms import CostTerm
from trisect.profiles.stored.segment_store import (
    MeasuredSegment,
    SegmentStore,
    load_segments,
    save_segments,
    segment_key,
    update_segments,
)
from trisect.runtime.device import Device
from trisect.runtime.errors import InvalidProfile

CPU = Device("cpu:a", "cpu", "a", "A", engine_version="1")


def random_terms(rng: random.Random) -> tuple[CostTerm, ...]:
    sizes = [rng.uniform(9, 14) for _ in range(rng.randint(1, 8))]
    return (CostTerm("call"), *(CostTerm("elementwise", (("bytes", n),), ("op=Relu",), 0.0, exp(n)) for n in sizes))


def test_stored_segments_are_valid_for_one_engine_version(tmp_path: Path) -> None:
    rows = [MeasuredSegment(random_terms(random.Random(i)), 1e-5 * (i + 1), 0.03) for i in range(5)]
    path = tmp_path / "s.json"
    assert load_segments(path) == SegmentStore()
    save_segments(SegmentStore().extended([CPU], {"cpu:a": rows}, 2, 3.0), path)
    segments = load_segments(path)
    assert segments.of(CPU) == tuple(rows)
    assert (segments.networks, segments.spent_s) == (2, 3.0)
    updated = Device("cpu:a", "cpu", "a", "A", engine_version="2")
    assert segments.of(updated) == ()
    assert segments.extended([updated], {"cpu:a": rows[:1]}, 3, 1.0).of(updated) == tuple(rows[:1])


def test_categorical_features_keep_their_name_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    rows = (MeasuredSegment((CostTerm("border", (("bytes", 1.0),), ("in",), 0.0, 4.0),), 1e-5, 0.0),)
    save_segments(SegmentStore().extended([CPU], {"cpu:a": rows}, 1, 1.0), path)
    (term,) = json.loads(path.read_text())["terms"]
    assert term == {"kind": "border", "sizes": [["bytes", 1.0]], "marks": ["in"], "flops": 0.0, "size_bytes": 4.0}
    assert load_segments(path).of(CPU) == rows


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:-20],
        lambda text: text.replace('"schema":2', '"schema":99'),
        lambda text: json.dumps({**json.loads(text), "devices": {"cpu:a": [[[999], 1.0, 0.0, "plan"]]}}),
        lambda text: json.dumps({**json.loads(text), "devices": {"cpu:a": [[[0], -1.0, 0.0, "plan"]]}}),
        lambda text: "[]",
    ],
)
def test_a_damaged_file_is_refused_in_one_line(change, tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    rows = [MeasuredSegment((CostTerm("call"),), 1e-5, 0.0)]
    save_segments(SegmentStore().extended([CPU], {"cpu:a": rows}, 1, 1.0), path)
    path.write_text(change(path.read_text()))
    with pytest.raises(InvalidProfile) as caught:
        load_segments(path)
    assert "\n" not in str(caught.value)


def test_different_segments_have_different_keys() -> None:
    segments = [random_terms(random.Random(i)) for i in range(50)]
    assert len({segment_key(terms) for terms in segments}) == len(set(segments))


def test_segments_that_another_process_has_added_are_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    rows = [MeasuredSegment(random_terms(random.Random(i)), 1e-5 * (i + 1), 0.03) for i in range(4)]
    start = SegmentStore().extended([CPU], {"cpu:a": rows[:1]}, 1, 1.0)
    save_segments(start, path)
    ours, theirs = (start.extended([CPU], {"cpu:a": [row]}, 2, 1.0) for row in rows[1:3])
    update_segments(path, theirs.joined)
    stored = update_segments(path, ours.joined)
    assert stored == load_segments(path)
    assert set(stored.of(CPU)) == set(rows[:3])
    own = MeasuredSegment(rows[0].terms, 9e-5, 0.0, "plan")  # measured of a user's model: replaces the earlier one
    stored = update_segments(path, stored.extended([CPU], {"cpu:a": [own]}, 2, 0.0).joined)
    assert set(stored.of(CPU)) == {own, *rows[1:3]}
