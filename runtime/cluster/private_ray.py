"""Starts a private Ray, which only this user on this machine can reach and which reports nothing."""

from __future__ import annotations

import importlib
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..environment import environment
from ..workers.python_process import SAFE_PATH
from .reaper import Reaper

NAMESPACE = "trisect"
_INNER_FOLDER = "r"
_token = secrets.token_hex(32)


def start_private_ray(ray: Any, folder: Path, store_bytes: int) -> str:
    """Start Ray on this machine and connect to it.

    Parameters
    ----------
    ray : module
    folder : Path
        For its sockets and logs; other users cannot enter it.
    store_bytes : int
        Size of its object store.

    Returns
    -------
    str
        Its address.
    """
    ray_constants: Any = importlib.import_module("ray._private.ray_constants")
    settings = {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # makes every server listen on loopback only
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": _token,
        "RAY_USAGE_STATS_ENABLED": "0",
        **SAFE_PATH,
    }
    # Ray reads it from the environment when it is imported, which may have happened before.
    on_loopback = _replaced(ray_constants, "ENABLE_RAY_CLUSTER", False)
    # Even where the dashboard is turned off, its process asks services of cloud providers where it runs.
    node: Any = importlib.import_module("ray._private.node").Node
    # Only for the processes that start here: others must not get the token.
    with environment(settings), on_loopback, _replaced(node, "start_api_server", _start_no_api_server):
        reload_settings()
        context = ray.init(
            address="local", num_cpus=0, num_gpus=0, include_dashboard=False, configure_logging=False,
            log_to_driver=False, object_store_memory=store_bytes, namespace=NAMESPACE,
            # Ray opens its own folder to all users: it is put into one that they cannot enter.
            _temp_dir=str(folder / _INNER_FOLDER), job_config=job_config(ray),
        )  # fmt: skip
    address: str = context.address_info["gcs_address"]
    return address


def _start_no_api_server(node: Any, **_: Any) -> None:
    node._webui_url = ""


def job_config(ray: Any) -> Any:
    """Return Ray's settings of this process's work: workers search no folders of this process for modules."""

    class JobConfig(ray.job_config.JobConfig):  # type: ignore[misc]  # Ray is imported late
        def _serialize(self) -> Any:
            # Ray adds the current folder and that of the script after the settings were made.
            self._py_driver_sys_path: list[str] = []
            return super()._serialize()

    return JobConfig()


def reload_settings() -> None:
    """Make Ray read the environment again and drop the token of an earlier Ray instance of this process."""
    raylet: Any = importlib.import_module("ray._raylet")
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def reaped(folder: Path) -> Iterator[Reaper]:
    """Clean up after a private Ray even if this process is killed meanwhile."""
    reaper = Reaper(str(folder))
    try:
        yield reaper
    finally:
        reaper.dismiss()


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Replace an attribute of one of Ray's modules or classes for the duration of a block."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
