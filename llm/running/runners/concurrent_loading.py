"""Loads runners at the same time: engines compile a graph and pack its weights on one core for the most part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from .runner import Runner


def load_concurrently(loaders: Sequence[Callable[[], Runner]]) -> list[Runner]:
    """Call functions that each load a runner, in a thread each, and return the runners in the same order.

    If one fails, the runners of the others are closed, and the error of the first that failed is raised.
    """
    if len(loaders) == 1:
        return [loaders[0]()]
    with ThreadPoolExecutor(len(loaders)) as pool:
        pending = [pool.submit(load) for load in loaders]
    errors = [error for future in pending if (error := future.exception()) is not None]
    if errors:
        _close(pending)
        raise errors[0]
    return [future.result() for future in pending]


def _close(pending: Sequence[Future[Runner]]) -> None:
    for future in pending:
        if future.exception() is None:
            future.result().close()
