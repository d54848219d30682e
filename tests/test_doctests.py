"""Runs the examples in every module's docstrings.

Not pytest's own collection of doctests: it would import the packages by their folder names, as second copies of them.
"""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import trisect
import trisect.bench
import trisect.llm
import trisect.partitioner
import trisect.profiles
import trisect.runtime
import trisect.scheduler

PACKAGES = (
    trisect,
    trisect.bench,
    trisect.llm,
    trisect.partitioner,
    trisect.profiles,
    trisect.runtime,
    trisect.scheduler,
)
NAMES = sorted(
    {m.name for package in PACKAGES for m in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")}
)


OPTIONAL = "trisect.bench.peers."
"""Modules that need a package which only an extra brings."""


@pytest.mark.parametrize("name", [name for name in NAMES if not name.endswith("__main__")])
def test_examples(name: str) -> None:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if not name.startswith(OPTIONAL) or str(error.name).startswith("trisect"):
            raise
        pytest.skip(f"{error.name} is not installed")
    assert doctest.testmod(module, optionflags=doctest.ELLIPSIS).failed == 0
