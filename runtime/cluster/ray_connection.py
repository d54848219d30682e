"""The one Ray of this process: private to it and reachable from this machine only, or a cluster that runs already.

A process can have one Ray, starting it takes seconds, and on Linux its servers die with the *thread* that started
them: so one thread of ours starts it, keeps it for as long as anybody uses it, and ends it.
"""

from __future__ import annotations

import atexit
import importlib
import logging
import os
import secrets
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from ..errors import ClusterFailed, EngineMissing, InvalidInput, one_line
from .reaper import Reaper
from .scratch_folder import scratch_folder

NAMESPACE = "trisect"
_START_S = 60.0
_JOIN_S = 30.0
_ANSWER_S = 3.0
_END_S = 20.0
_STORE_BYTES = 80 << 20
"""Of a private Ray's object store, near the least that Ray takes: tensors of one machine do not pass through it."""
_LONGEST_FOLDER = 40
"""Ray's sockets lie 64 characters deeper, and a socket's path has at most 107."""
_PREFIX = "trisect-ray-"
_HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_SETTINGS_FRAME = 4

_lock = threading.Lock()
_keeper: _Keeper | None = None
_token = secrets.token_hex(32)


def connect(address: str | None = None, *, store_bytes: int = _STORE_BYTES) -> Connection:
    """A share in this process's Ray, which is started or joined if nobody has done so.

    Parameters
    ----------
    address : str, optional
        ``host:port`` of a running cluster, or ``"auto"`` for the one that this machine belongs to. When left out:
        ``RAY_ADDRESS``, or the Ray that this process uses already, or else a private one.
    store_bytes : int
        Of a private Ray's object store, which trisect itself does not need.

    Raises
    ------
    EngineMissing
        Where Ray is not installed.
    ClusterFailed
        Where nothing answers, wants another token, or runs another version.
    InvalidInput
        For an address that is none, or when this process is connected elsewhere.
    """
    global _keeper
    ray = import_ray()
    wanted = address or (None if ray.is_initialized() else os.environ.get("RAY_ADDRESS")) or None
    if wanted is not None and wanted != "auto":
        _parts(wanted)
    with _lock:
        if _keeper is not None:
            if wanted not in (None, "auto", _keeper.wanted, _keeper.address):
                raise InvalidInput(
                    f"this process is connected to the Ray at {_keeper.address}, and can have one at a time",
                    remedy=f"close what uses it before connecting to {wanted}",
                )
        else:
            keeper = _Keeper(ray, wanted, store_bytes)
            keeper.begin()
            _keeper = keeper
        _keeper.shares += 1
        return Connection(_keeper)


def import_ray() -> Any:
    """Ray, which takes a second to import and is not made for every system.

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


class Connection:
    """A share in the process's Ray, to be closed; the last one ends a Ray that was started here."""

    def __init__(self, keeper: _Keeper) -> None:
        self._keeper: _Keeper | None = keeper
        self.ray: Any = keeper.ray
        self.address = keeper.address
        self.is_private = keeper.wanted is None and not keeper.borrowed

    def close(self) -> None:
        """Give the share back; a second call does nothing."""
        global _keeper
        with _lock:
            keeper, self._keeper = self._keeper, None
            if keeper is None:
                return
            keeper.shares -= 1
            if keeper.shares == 0 and keeper is _keeper:
                _keeper = None
                keeper.end()

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Keeper:
    """The thread that starts Ray, and that ends it."""

    def __init__(self, ray: Any, wanted: str | None, store_bytes: int) -> None:
        self.ray = ray
        self.wanted = wanted
        self.store_bytes = store_bytes
        self.borrowed = bool(ray.is_initialized())
        self.address = wanted or ""
        self.shares = 0
        self._ready = threading.Event()
        self._ended = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._keep, name="trisect ray", daemon=True)

    def begin(self) -> None:
        """Have Ray, or raise what prevents it."""
        if self.borrowed:
            self._use_borrowed()
            return
        if self.wanted is not None and self.wanted != "auto":
            _knock(self.wanted)
        self._thread.start()
        limit_s = _START_S if self.wanted is None else _JOIN_S
        try:
            in_time = self._ready.wait(limit_s)
        except BaseException:  # Ctrl-C
            self._ended.set()
            raise
        if not in_time:
            self._ended.set()
            what = f"the Ray cluster at {self.wanted}" if self.wanted else "a private Ray"
            raise ClusterFailed(f"{what} did not answer within {limit_s:.0f} s", remedy="see that it runs: ray status")
        if self._error is not None:
            raise self._explained(self._error)
        atexit.register(self.end)

    def end(self) -> None:
        """Leave Ray, or end the one that was started here."""
        atexit.unregister(self.end)
        self._ended.set()
        if not self.borrowed and self._thread is not threading.current_thread():
            self._thread.join(_END_S)

    def _use_borrowed(self) -> None:
        here = self.ray.get_runtime_context().gcs_address
        if self.wanted not in (None, "auto", here):
            raise InvalidInput(
                f"this process uses the Ray at {here} already, and can have one at a time",
                remedy=f"call ray.shutdown() before connecting to {self.wanted}",
            )
        self.address = here

    def _keep(self) -> None:
        logger = logging.getLogger("ray")
        level = logger.level
        logger.setLevel(logging.CRITICAL)  # what it has to say is told by our errors
        try:
            with ExitStack() as closing:
                try:
                    if self.wanted is None:
                        folder = closing.enter_context(scratch_folder(_base(), _PREFIX))
                        self._start(folder)
                        closing.enter_context(_reaped(folder))
                    else:
                        self._join()
                    _silence()
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

    def _start(self, folder: Path) -> None:
        ray_constants: Any = importlib.import_module("ray._private.ray_constants")
        settings = {
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # the switch that has every server listen on loopback only
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": _token,
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        may_listen = ray_constants.ENABLE_RAY_CLUSTER
        with _environment(settings):
            # Read from the environment when Ray is imported, which the caller may have done long ago.
            ray_constants.ENABLE_RAY_CLUSTER = False
            try:
                _read_settings_again()
                context = self.ray.init(
                    address="local", num_cpus=0, num_gpus=0, include_dashboard=False, configure_logging=False,
                    log_to_driver=False, object_store_memory=self.store_bytes, namespace=NAMESPACE,
                    _temp_dir=str(folder),
                )  # fmt: skip
            finally:
                ray_constants.ENABLE_RAY_CLUSTER = may_listen
        self.address = context.address_info["gcs_address"]

    def _join(self) -> None:
        _read_settings_again()
        context = self.ray.init(address=self.wanted, configure_logging=False, log_to_driver=False, namespace=NAMESPACE)
        self.address = context.address_info["gcs_address"]

    def _explained(self, error: BaseException) -> ClusterFailed:
        text = one_line(error, 2000, with_kind=False)
        if self.wanted is None:
            return ClusterFailed(f"a private Ray cannot be started: {text[:300]}")
        if "Version mismatch" in text:
            return ClusterFailed(
                f"the Ray cluster at {self.wanted} does not fit: {text[text.index('Version mismatch') :]}",
                remedy="use the same versions of Ray and Python everywhere",
            )
        if "uthenticat" in text or "token" in text:
            return ClusterFailed(
                f"the Ray cluster at {self.wanted} does not let this process in: {text[:200]}",
                remedy="set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN as on the cluster",
            )
        return ClusterFailed(
            f"the Ray cluster at {self.wanted} cannot be joined: {text[:300]}",
            remedy="see that it runs, and that this machine is one of its nodes: ray start --address=HOST:PORT",
        )


def _parts(address: str) -> tuple[str, int]:
    """Host and port of an address."""
    if "://" in address:
        raise InvalidInput(
            f"{address!r} is not the address of a node", remedy="run on a node of the cluster, and give host:port"
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise InvalidInput(f"{address!r} is no address of a Ray cluster", remedy="give host:port, or auto")
    return host.strip("[]"), int(port)


def _knock(address: str) -> None:
    """See that something of Ray's kind listens: Ray itself waits long, and then ends the whole process."""
    try:
        with socket.create_connection(_parts(address), timeout=_ANSWER_S) as there:
            there.sendall(_HTTP2_HELLO)
            frame = there.recv(9)
    except OSError as error:
        raise ClusterFailed(
            f"no Ray cluster can be reached at {address}: {error.strerror or error}",
            remedy="see that it runs: ray status",
        ) from error
    if len(frame) < 4 or frame[3] != _SETTINGS_FRAME:
        raise ClusterFailed(f"what answers at {address} is no Ray cluster", remedy="give the address of its head node")


def _read_settings_again() -> None:
    """Have Ray look at the environment anew, and forget the token of an earlier Ray of this process."""
    raylet: Any = importlib.import_module("ray._raylet")
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def _reaped(folder: Path) -> Iterator[None]:
    """Have a private Ray cleared away even if this process is killed meanwhile."""
    reaper = Reaper(psutil.Process().children(recursive=True), str(folder))
    try:
        yield
    finally:
        reaper.dismiss()


def _silence() -> None:
    """End the thread by which Ray prints every death of a worker to standard output, where answers go."""
    worker: Any = importlib.import_module("ray._private.worker").global_worker
    with suppress(AttributeError):
        worker.threads_stopped.set()
        worker.gcs_error_subscriber.close()


@contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    """The settings in force for what is started within; then as it was: a token is nothing for other children."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _base() -> Path:
    """Where Ray's sockets may lie: some systems' folder for temporary files is too deep."""
    base = Path(tempfile.gettempdir())
    return base if len(str(base)) + len(_PREFIX) + 8 <= _LONGEST_FOLDER else Path("/tmp")
