"""Arrays in ``.npz`` files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trisect.cli.array_files import read_feeds, write_arrays
from trisect.runtime.errors import InvalidInput
from trisect.runtime.tensors.dtypes import dtype_of
from trisect.runtime.tensors.feed_checks import check_feeds
from trisect.runtime.tensors.tensor_spec import TensorSpec


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


@pytest.mark.parametrize("name", ["file", "allow_pickle", "arr_0", "a/b", "../up", "y.npy", "größe", ""])
def test_any_name_is_written_and_read(name: str, tmp_path: Path) -> None:
    assert write_arrays(tmp_path / "out.npz", {name: np.arange(3), "other": np.zeros(0)}) == {}
    assert np.load(tmp_path / "out.npz")[name].tolist() == [0, 1, 2]
    arrays = read_feeds(tmp_path / "out.npz")
    assert arrays is not None
    assert arrays[name].tolist() == [0, 1, 2]


def test_names_that_no_zip_can_contain_are_numbered(tmp_path: Path) -> None:
    long, with_nul = "y" * 70_000, "a\0b"
    renamed = write_arrays(tmp_path / "out.npz", {"output_1": np.zeros(1), long: np.ones(1), with_nul: np.ones(2)})
    assert renamed == {long: "output_1_", with_nul: "output_2"}
    arrays = np.load(tmp_path / "out.npz")
    assert sorted(arrays.files) == ["output_1", "output_1_", "output_2"]
    assert arrays["output_2"].tolist() == [1, 1]


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn", "float8_e5m2", "int4", "uint4"])
def test_small_dtypes_survive_a_file(dtype: str, tmp_path: Path) -> None:
    array = np.array([[1, 2], [0, 3]]).astype(dtype_of(dtype))
    write_arrays(tmp_path / "out.npz", {"x": array})
    feeds = read_feeds(tmp_path / "out.npz")
    assert feeds is not None
    checked = check_feeds([TensorSpec("x", dtype, (2, 2))], feeds)["x"]
    assert checked.dtype == array.dtype
    assert checked.astype(int).tolist() == [[1, 2], [0, 3]]
