"""Arrays in ``.npz`` files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trisect.cli.array_files import read_feeds, write_arrays
from trisect.runtime.errors import InvalidInput


def test_strings_are_stored_as_text_and_lists_are_refused(tmp_path: Path) -> None:
    words = np.array([["a", ""], ["häß", "b c"]], dtype=object)
    write_arrays(tmp_path / "words.npz", {"words": words, "x": np.ones(2)})
    arrays = read_feeds(tmp_path / "words.npz")
    assert arrays is not None
    assert arrays["words"].tolist() == words.tolist()
    assert arrays["x"].tolist() == [1, 1]
    rows = np.fromiter([np.ones(2), np.ones(3)], dtype=object, count=2)
    with pytest.raises(InvalidInput, match="'rows', which is a list"):
        write_arrays(tmp_path / "rows.npz", {"rows": rows})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["words.npz"]


def test_without_a_file_there_are_no_feeds() -> None:
    assert read_feeds(None) is None
