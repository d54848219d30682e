"""trisect with a plan."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter

import numpy as np

from trisect.runtime.engines.base import LoadOptions
from trisect.runtime.plans.plan import Plan
from trisect.runtime.plans.timeline import Event
from trisect.runtime.sessions.session import Session
from trisect.runtime.tensors.tensor_spec import Arrays

from . import ContenderOptions


class PlanContender:
    """A `Session` of the plan in a folder."""

    def load(self, model: Path, feeds: Arrays, options: ContenderOptions) -> str:
        """See `Contender.load`."""
        plan = Plan.load(model)
        self._session = Session(plan, options=LoadOptions(threads=options.threads))
        self._feeds = dict(feeds)
        return ""

    def run(self) -> dict[str, np.ndarray]:
        """See `Contender.run`."""
        return self._session.run(self._feeds)

    def events(self) -> list[Event]:
        """See `Contender.events`."""
        return list(self._session.trace.events)

    def stream(self, items: int) -> float:
        """See `Contender.stream`."""
        start_s = perf_counter()
        for _ in self._session.stream([self._feeds] * items):
            pass
        return perf_counter() - start_s


CONTENDER = PlanContender
