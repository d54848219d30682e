"""The one Ray instance of this process: a private one that only this machine can reach, or a running cluster.

A process can have one Ray instance, starting it takes seconds, and on Linux its servers end with the *thread* that
started them. So one thread starts it, waits for as long as it is in use, and ends it.
"""

from __future__ import annotations

import atexit
import importlib
import logging
import os
import socket
import tempfile
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil

from ..errors import ClusterFailed, EngineMissing, InvalidInput, one_line
from ..scratch_folder import NAME_LENGTH, ScratchFolder
from .private_ray import NAMESPACE, job_config, reaped, reload_settings, start_private_ray

_START_TIMEOUT_S = 60.0
_JOIN_TIMEOUT_S = 30.0
_CONNECT_TIMEOUT_S = 3.0
_END_TIMEOUT_S = 20.0
_STORE_BYTES = 80 << 20
"""Size of a private Ray's object store, near Ray's minimum: tensors of one machine do not pass through it."""
_FOLDER_LENGTH_MAX = 40
"""The paths of Ray's sockets are 64 characters longer than `_INNER_FOLDER`, and a socket's path has at most 107."""
_FOLDER_PURPOSE = "ray"
_HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_SETTINGS_FRAME = 4

_lock = threading.Lock()
_instance: _RayInstance | None = None


def connect(address: str | None = None, *, store_bytes: int = _STORE_BYTES) -> RayConnection:
    """Connect to this process's Ray instance; start one or join a cluster if there is none.

    Parameters
    ----------
    address : str, optional
        ``host:port`` of a running cluster, or ``"auto"`` for the one that this machine belongs to. When left out:
        ``RAY_ADDRESS``, or the Ray instance that this process uses already, or else a private one.
    store_bytes : int
        Size of a private Ray's object store, which trisect itself does not need.

    Raises
    ------
    EngineMissing
        Where Ray is not installed.
    ClusterFailed
        Where no cluster answers, or it needs another token or version.
    InvalidInput
        For a malformed address, or when this process is connected elsewhere.
    """
    global _instance
    ray = import_ray()
    wanted = address or (None if ray.is_initialized() else os.environ.get("RAY_ADDRESS")) or None
    if wanted is not None and wanted != "auto":
        _host_and_port(wanted)
    with _lock:
        if _instance is not None:
            if wanted not in (None, "auto", _instance.wanted, _instance.address):
                raise InvalidInput(
                    f"this process is connected to the Ray at {_instance.address}, and can have one at a time",
                    remedy=f"close the sessions that use it before connecting to {wanted}",
                )
        else:
            instance = _RayInstance(ray, wanted, store_bytes)
            instance.begin()
            _instance = instance
        _instance.references += 1
        return RayConnection(_instance)


def import_ray() -> Any:
    """Import Ray, which takes a second and is not available for every system.

    Raises
    ------
    EngineMissing
    """
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise EngineMissing(
            f"ray cannot be imported ({error})", remedy='pip install ray, or use the executor "threads"'
        ) from error


class RayConnection:
    """A reference to the process's Ray instance; closing the last one ends an instance that was started here."""

    def __init__(self, instance: _RayInstance) -> None:
        self._instance: _RayInstance | None = instance
        self.ray: Any = instance.ray
        self.address = instance.address
        self.is_private = instance.wanted is None and not instance.borrowed

    def close(self) -> None:
        """Release the instance; a second call does nothing."""
        global _instance
        with _lock:
            instance, self._instance = self._instance, None
            if instance is None:
                return
            instance.references -= 1
            if instance.references == 0 and instance is _instance:
                _instance = None
                instance.end()

    def __enter__(self) -> RayConnection:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class _RayInstance:
    """Ray, with the thread that starts and ends it."""

    def __init__(self, ray: Any, wanted: str | None, store_bytes: int) -> None:
        self.ray = ray
        self.wanted = wanted
        self.store_bytes = store_bytes
        self.borrowed = bool(ray.is_initialized())
        self.address = wanted or ""
        self.references = 0
        self._ready = threading.Event()
        self._ended = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._hold, name="trisect ray", daemon=True)

    def begin(self) -> None:
        """Start Ray or join a cluster, or raise the reason of the failure."""
        if self.borrowed:
            self._use_borrowed()
            return
        if self.wanted is not None and self.wanted != "auto":
            _check_is_ray(self.wanted)
        self._thread.start()
        timeout_s = _START_TIMEOUT_S if self.wanted is None else _JOIN_TIMEOUT_S
        try:
            is_ready = self._ready.wait(timeout_s)
        except BaseException:  # Ctrl-C
            self._ended.set()
            raise
        if not is_ready:
            self._ended.set()
            name = f"the Ray cluster at {self.wanted}" if self.wanted else "a private Ray"
            raise ClusterFailed(
                f"{name} did not answer within {timeout_s:.0f} s", remedy="check that it runs: ray status"
            )
        if self._error is not None:
            raise self._explain(self._error)
        atexit.register(self.end)

    def end(self) -> None:
        """Disconnect from Ray, or end the instance that was started here."""
        atexit.unregister(self.end)
        self._ended.set()
        if not self.borrowed and self._thread is not threading.current_thread():
            self._thread.join(_END_TIMEOUT_S)

    def _use_borrowed(self) -> None:
        here = self.ray.get_runtime_context().gcs_address
        if self.wanted not in (None, "auto", here):
            raise InvalidInput(
                f"this process uses the Ray at {here} already, and can have one at a time",
                remedy=f"call ray.shutdown() before connecting to {self.wanted}",
            )
        self.address = here

    def _hold(self) -> None:
        """Start Ray, wait for `end`, and shut it down; the body of the thread."""
        logger = logging.getLogger("ray")
        level = logger.level
        logger.setLevel(logging.CRITICAL)  # our own errors report what it would log
        try:
            with ExitStack() as closing:
                try:
                    if self.wanted is None:
                        folder = closing.enter_context(ScratchFolder(_FOLDER_PURPOSE, _temporary_folder()))
                        reaper = closing.enter_context(reaped(folder))
                        self.address = start_private_ray(self.ray, folder, self.store_bytes)
                        reaper.add(psutil.Process().children(recursive=True))
                    else:
                        self._join()
                    _stop_error_printer()
                except BaseException as error:
                    self._error = error
                    self.ray.shutdown()
                    return
                finally:
                    self._ready.set()
                self._ended.wait()
                self.ray.shutdown()
        finally:
            logger.setLevel(level)

    def _join(self) -> None:
        reload_settings()
        context = self.ray.init(
            address=self.wanted, configure_logging=False, log_to_driver=False, namespace=NAMESPACE,
            job_config=job_config(self.ray),
        )  # fmt: skip
        self.address = context.address_info["gcs_address"]

    def _explain(self, error: BaseException) -> ClusterFailed:
        text = one_line(error, 2000, with_kind=False)
        if self.wanted is None:
            return ClusterFailed(f"a private Ray cannot be started: {text[:300]}")
        if "Version mismatch" in text:
            return ClusterFailed(
                f"the Ray cluster at {self.wanted} is incompatible: {text[text.index('Version mismatch') :]}",
                remedy="use the same versions of Ray and Python everywhere",
            )
        if "uthenticat" in text or "token" in text:
            return ClusterFailed(
                f"the Ray cluster at {self.wanted} refuses this process: {text[:200]}",
                remedy="set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN as on the cluster",
            )
        return ClusterFailed(
            f"the Ray cluster at {self.wanted} cannot be joined: {text[:300]}",
            remedy="check that it runs and that this machine is one of its nodes: ray start --address=HOST:PORT",
        )


def _host_and_port(address: str) -> tuple[str, int]:
    """Split an address."""
    if "://" in address:
        raise InvalidInput(
            f"{address!r} is not the address of a node", remedy="run on a node of the cluster, and pass host:port"
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise InvalidInput(f"invalid address of a Ray cluster: {address!r}", remedy="pass host:port, or auto")
    return host.strip("[]"), int(port)


def _check_is_ray(address: str) -> None:
    """Check that an HTTP/2 server listens at an address: Ray itself would wait long and then end the whole process."""
    try:
        with socket.create_connection(_host_and_port(address), timeout=_CONNECT_TIMEOUT_S) as connection:
            connection.sendall(_HTTP2_PREFACE)
            frame = connection.recv(9)
    except OSError as error:
        raise ClusterFailed(
            f"no Ray cluster can be reached at {address}: {error.strerror or error}",
            remedy="check that it runs: ray status",
        ) from error
    if len(frame) < 4 or frame[3] != _SETTINGS_FRAME:
        raise ClusterFailed(
            f"the server at {address} is not a Ray cluster", remedy="pass the address of the cluster's head node"
        )


def _stop_error_printer() -> None:
    """End the thread with which Ray prints the death of each worker to standard output, which is for results."""
    worker: Any = importlib.import_module("ray._private.worker").global_worker
    with suppress(AttributeError):
        worker.threads_stopped.set()
        worker.gcs_error_subscriber.close()


def _temporary_folder() -> Path:
    """Return a folder for Ray's sockets: the path of the system's own may be too long."""
    base = Path(tempfile.gettempdir())
    return base if len(str(base)) + NAME_LENGTH + len(_FOLDER_PURPOSE) + 1 <= _FOLDER_LENGTH_MAX else Path("/tmp")
