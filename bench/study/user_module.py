"""Loads a user's Python file that registers strategies or workloads, for the command line."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from trisect.runtime.errors import InvalidInput, one_line


def load(path: str | Path) -> None:
    """Run a file, which registers strategies or workloads.

    Raises
    ------
    InvalidInput
        When it does not exist, or raises.
    """
    import cloudpickle

    file = Path(path).resolve()
    if not file.is_file() or file.suffix != ".py":
        raise InvalidInput(
            f"{path} is not a Python file", remedy="give a .py file that registers strategies or workloads"
        )
    name = f"trisect_loaded_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise InvalidInput(f"{path} raised {one_line(error, 200)}", remedy="fix it") from error
    # Other processes cannot import it by this name: its functions are pickled by value.
    cloudpickle.register_pickle_by_value(module)
