"""Ctrl-C ends a call of native code at once; results and exceptions pass through."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from tests.runtime.interrupting import interrupted_after
from trisect.runtime.interruptible import call_cancellably, call_interruptibly


def test_results_and_exceptions_pass_through():
    assert call_interruptibly(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        call_interruptibly(lambda: 1 / 0)


def test_an_interrupt_stops_the_call():
    stopped = threading.Event()
    with interrupted_after(0.2):
        call_interruptibly(lambda: stopped.wait(60), stopped.set)
    assert stopped.is_set()


def test_a_call_is_cancelled_when_asked_to_and_when_interrupted():
    started, cancelled = threading.Event(), threading.Event()

    def compute():
        started.set()
        assert cancelled.wait(60)
        return "cancelled"

    assert call_cancellably(compute, cancelled.set, started.is_set) == "cancelled"
    cancelled.clear()
    with interrupted_after(0.2):
        call_cancellably(compute, cancelled.set)
    assert cancelled.is_set()


def test_in_another_thread_it_is_a_plain_call():
    threads: list[int] = []
    other = threading.Thread(target=lambda: call_interruptibly(lambda: threads.append(threading.get_ident())))
    other.start()
    other.join()
    assert threads == [other.ident]


def test_ctrl_c_works_during_and_after_a_search_by_cp_sat():
    from ortools.sat.python import cp_model

    from trisect.scheduler.bounds.cp_sat import solve_cp

    model = cp_model.CpModel()
    holes = [[model.new_bool_var("") for _ in range(11)] for _ in range(12)]
    for pigeon in holes:
        model.add_bool_or(pigeon)
    for hole in zip(*holes, strict=True):
        for i, one in enumerate(hole):
            for other in hole[:i]:
                model.add_bool_or([one.negated(), other.negated()])
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.cp_model_presolve = False
    solver.parameters.symmetry_level = 0
    solver.parameters.max_time_in_seconds = 60

    def search() -> None:
        solve_cp(solver, model)
        time.sleep(60)

    for _ in range(2):
        with interrupted_after(0.3):
            search()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
