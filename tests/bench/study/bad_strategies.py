"""Strategies that do everything wrong that one can; read by the tests as a user's own file."""

from __future__ import annotations

import itertools
import os
import threading

import trisect
from trisect.scheduler.problem.solution import Proposal

_calls = itertools.count()
_lock = threading.Lock()


@trisect.strategy("bad-raises")
def raises(problem):
    return 1 / 0


@trisect.strategy("bad-exits")
def exits(problem):
    raise SystemExit("enough")


@trisect.strategy("bad-unknown-device")
def unknown_device(problem):
    return dict.fromkeys(problem.graph, "gpu:nowhere")


@trisect.strategy("bad-misses")
def misses(problem):
    return dict.fromkeys(list(problem.graph)[1:], problem.devices[0])


@trisect.strategy("bad-list")
def returns_list(problem):
    return [problem.devices[0] for _ in problem.graph]


@trisect.strategy("bad-forever")
def forever(problem):
    while True:
        pass


@trisect.strategy("bad-dies")
def dies(problem):
    os._exit(3)


@trisect.strategy("bad-moody")
def moody(problem):
    device = problem.devices[next(_calls) % len(problem.devices)]
    return dict.fromkeys(problem.graph, device)


@trisect.strategy("bad-boaster")
def boaster(problem):
    return Proposal(dict.fromkeys(problem.graph, problem.device_ids[0]), bound=1e9)


@trisect.strategy("bad-vandal")
def vandal(problem):
    problem.graph.remove_node(next(iter(problem.graph)))
    return dict.fromkeys(problem.graph, problem.devices[0])


@trisect.strategy("good-but-held")
def held(problem):
    # A lock cannot be sent to another process: this one runs where it was registered.
    with _lock:
        return dict.fromkeys(problem.graph, problem.devices[0])


@trisect.strategy("bad-forever-here")
def forever_here(problem):
    while _lock is not None:
        pass
