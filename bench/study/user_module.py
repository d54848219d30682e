"""A user's Python file with strategies or workloads, for the command line: it is run, and registers them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from trisect.runtime.errors import InvalidInput, one_line


def load(path: str | Path) -> None:
    """Run a file.

    Raises
    ------
    InvalidInput
        When it is not there, or raises.
    """
    import cloudpickle

    file = Path(path).resolve()
    if not file.is_file() or file.suffix != ".py":
        raise InvalidInput(f"{path} is no Python file", remedy="give one that registers strategies or workloads")
    name = f"trisect_loaded_{file.stem}"
    found = importlib.util.spec_from_file_location(name, file)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    try:
        found.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise InvalidInput(f"{path} raised {one_line(error, 200)}", remedy="mend it") from error
    # Other processes cannot import it by this name: its functions are sent whole.
    cloudpickle.register_pickle_by_value(module)
