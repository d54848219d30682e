"""The linear program of segments in slots: variables, constraints, and the objective.

Slots are in an order, each has one device or is unused, and each task is in one slot.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import floor, inf

from ..problem.problem import Part, Problem
from ..problem.task_graph import tensor_edges
from ..simulation.list_scheduling import TaskLists, task_lists
from .linear_program import LinearProgram
from .lower_bounds import best_bound, upper_bound
from .slot_crossings import slot_crossings

_INTEGER_STEPS, _REAL_STEPS = 10**6, 1000.0
"""Units of the program from zero to the horizon."""


@dataclass(frozen=True)
class SlotModel:
    """The linear program, and the meaning of its variables."""

    problem: Problem
    lists: TaskLists
    program: LinearProgram
    goal: int
    scale: float
    is_integer: bool
    """Whether the program needs integer coefficients."""
    cells: list[list[dict[int, int]]]
    """Per task and slot: device -> binary variable."""
    used: list[list[int]]
    """Per slot and device: binary variable of its use."""

    @classmethod
    def of(cls, problem: Problem, slots: int, value: float, *, is_integer: bool) -> SlotModel:
        """Build the model of a problem with a number of slots."""
        lists = task_lists(problem)
        program = LinearProgram()
        horizon = value if 0 < value < inf else upper_bound(problem)
        steps = _INTEGER_STEPS if is_integer else _REAL_STEPS
        scale, top = steps / horizon, steps + 1
        goal = program.bounded(min(top, floor(best_bound(problem).value * scale * (1 - 1e-6))), top)
        cells = [
            [{d: program.binary() for d, t in enumerate(row) if t < inf} for _ in range(slots)] for row in lists.times
        ]
        used = [[program.binary() for _ in lists.devices] for _ in range(slots)]
        model = cls(problem, lists, program, goal, scale, is_integer, cells, used)
        model.add_slots()
        model.add_rules()
        add_objective = {
            "latency": model.add_latency,
            "throughput": model.add_loads,
            "energy": model.add_energy,
            "memory": model.add_memory,
        }
        add_objective[problem.objective]()
        return model

    def scaled(self, quantity: float) -> float:
        """Return a quantity in the program's unit; rounded down for integers, so that bounds hold."""
        return float(floor(quantity * self.scale)) if self.is_integer else quantity * self.scale

    def place(self, task: int, device: int) -> dict[int, float]:
        """Return terms whose sum is one where a task is on a device."""
        return {cell[device]: 1.0 for cell in self.cells[task] if device in cell}

    def add_slots(self) -> None:
        """Add: each task in one slot on its slot's device, not before its predecessors; no slot after an unused one."""
        program = self.program
        for row in self.cells:
            program.add({c: 1.0 for cell in row for c in cell.values()}, 1, 1)
            for k, cell in enumerate(row):
                for d, choice in cell.items():
                    program.add({choice: 1.0, self.used[k][d]: -1.0}, -inf, 0)
        for k, devices in enumerate(self.used):
            program.add(dict.fromkeys(devices, 1.0), 0, 1)
            if k:
                program.add(dict.fromkeys(devices, 1.0) | dict.fromkeys(self.used[k - 1], -1.0), -inf, 0)
            for d, variable in enumerate(devices):
                # A slot without tasks is unused.
                inside = {row[k][d]: -1.0 for row in self.cells if d in row[k]}
                program.add({variable: 1.0, **inside}, -inf, 0)
        for j, before in enumerate(self.lists.preds):
            for i, _ in before:
                for k in range(1, len(self.used)):
                    later = {c: 1.0 for cell in self.cells[i][k:] for c in cell.values()}
                    later |= {c: -1.0 for cell in self.cells[j][k:] for c in cell.values()}
                    program.add(later, -inf, 0)

    def add_rules(self) -> None:
        """Add: colocated groups, one slot per device for contiguous pieces, weights within each memory."""
        number = self.lists.numbers
        rules, width = self.problem.rules, range(len(self.lists.devices))
        for group in rules.colocated:
            for task in group[1:]:
                for d in width:
                    first = self.place(number[group[0]], d)
                    self.program.add({**first, **dict.fromkeys(self.place(number[task], d), -1.0)}, 0, 0)
        for d in width:
            if rules.contiguous:
                self.program.add({devices[d]: 1.0 for devices in self.used}, 0, 1)
            capacity = self.problem.devices[d].memory_bytes
            where = self.lists.devices[d]
            if capacity is None:
                continue
            if sum(self.problem.held_bytes(task, where) for task in self.lists.tasks) > capacity:
                share = _INTEGER_STEPS / capacity
                weights = {
                    c: float(floor(self.problem.held_bytes(task, where) * share))
                    for i, task in enumerate(self.lists.tasks)
                    for c in self.place(i, d)
                }
                self.program.add(weights, 0, _INTEGER_STEPS)

    def work(self, slot: int | None, device: int) -> dict[int, float]:
        """Return terms of the time of a slot (or of all) on a device, call overhead included."""
        slots = range(len(self.used)) if slot is None else (slot,)
        call = self.scaled(self.problem.overhead(self.lists.devices[device]))
        terms = {self.used[k][device]: call for k in slots}
        for row, times in zip(self.cells, self.lists.times, strict=True):
            for k in slots:
                if device in row[k]:
                    terms[row[k][device]] = self.scaled(times[device])
        return terms

    def add_loads(self) -> None:
        """Add: the objective is at least the load of each device, boundary crossings included."""
        for d in range(len(self.lists.devices)):
            crossed = {v: c for slot in self.crossed for v, c in slot[d].items()}
            self.program.add({self.goal: 1.0, **_negative({**self.work(None, d), **crossed})}, 0, inf)

    @cached_property
    def crossed(self) -> list[list[dict[int, float]]]:
        """Per slot and device, terms of what tensors cost that leave or enter the segment: seconds, or joules."""
        is_energy = self.problem.objective == "energy"
        prices = [self.problem.platform.power_w[d] if is_energy else 1.0 for d in self.lists.devices]
        return slot_crossings(
            self.problem,
            self.program,
            self.lists.numbers,
            self.cells,
            lambda time_s, d: self.scaled(time_s * prices[d]),
        )

    def add_memory(self) -> None:
        """Add: the objective is at least the bytes of weights on each device."""
        for d, where in enumerate(self.lists.devices):
            held = {
                c: self.scaled(self.problem.held_bytes(task, where))
                for i, task in enumerate(self.lists.tasks)
                for c in self.place(i, d)
            }
            self.program.add({self.goal: 1.0, **_negative(held)}, 0, inf)

    def add_energy(self) -> None:
        """Add: the objective is at least the energy of calls, tasks, transfers and boundary crossings."""
        program, problem, ids = self.program, self.problem, self.lists.devices
        number = self.lists.numbers
        total: dict[int, float] = {}
        for d, device in enumerate(ids):
            power = problem.platform.power_w[device]
            total |= {v: self.scaled(problem.overhead(device) * power) for v in (u[d] for u in self.used)}
            for i, row in enumerate(self.lists.times):
                total |= {c: self.scaled(row[d] * power) for c in self.place(i, d)}
        moves: dict[tuple[str, str, int, int], int] = {}
        for source, target, tensors in tensor_edges(problem.graph):
            for tensor, size_bytes in tensors.items():
                for a, src in enumerate(ids):
                    for b, dst in enumerate(ids):
                        cost = problem.transfer_time(size_bytes, src, dst) * problem.platform.power_w[dst]
                        ends = (self.place(number[source], a), self.place(number[target], b))
                        if cost <= 0 or not all(ends):
                            continue
                        # One transfer serves all readers on a device.
                        move = moves.setdefault((source, tensor, a, b), program.binary())
                        program.add({move: 1.0, **_negative({**ends[0], **ends[1]})}, -1, inf)
                        total[move] = self.scaled(cost)
        for slot in self.crossed:
            for crossed in slot:
                total |= crossed
        program.add({self.goal: 1.0, **_negative(total)}, 0, inf)

    def add_latency(self) -> None:
        """Add start times: slots start in order, wait for their device, and for their inputs."""
        program, lists = self.program, self.lists
        top = program.highs[self.goal]
        width = range(len(lists.devices))
        starts = [program.bounded(0, top) for _ in self.used]
        ends = [program.bounded(0, top) for _ in self.used]
        done = [program.bounded(0, top) for _ in lists.tasks]
        for k in range(len(self.used)):
            work = {v: c for d in width for v, c in {**self.work(k, d), **self.crossed[k][d]}.items()}
            program.add({ends[k]: 1.0, starts[k]: -1.0, **_negative(work)}, 0, inf)
            program.add({self.goal: 1.0, ends[k]: -1.0}, 0, inf)
            if k:
                program.add({starts[k]: 1.0, starts[k - 1]: -1.0}, 0, inf)
            for earlier in range(k):
                for d in width:
                    program.add({starts[k]: 1.0, ends[earlier]: -1.0}, 0, inf, (self.used[earlier][d], self.used[k][d]))
            for i, row in enumerate(self.cells):
                for choice in row[k].values():
                    program.add({done[i]: 1.0, ends[k]: -1.0}, 0, inf, (choice,))
        self.add_loads()
        self.add_paths()
        chosen = [[self._where(i, d) for d in width] for i in range(len(lists.tasks))]
        for j, before in enumerate(lists.preds):
            for i, _ in before:
                delays = self._delays(i, j)
                for a in width:
                    if chosen[i][a] is None:
                        continue
                    for k, cell in enumerate(self.cells[j]):
                        for b, choice in cell.items():
                            if a != b:
                                delay = delays[a][b]
                                when = (chosen[i][a] or 0, choice)
                                program.add({starts[k]: 1.0, done[i]: -1.0}, delay, inf, when)

    def _delays(self, source: int, target: int) -> list[list[float]]:
        """Return how long the tensors of an edge travel between each two devices; boundaries are work of the slots."""
        tensors = self.problem.graph.edges[self.lists.tasks[source], self.lists.tasks[target]]["tensors"]
        largest = max(tensors.values(), default=0)
        ids = self.lists.devices
        return [[self.scaled(self.problem.transfer_time(largest, a, b)) if tensors else 0.0 for b in ids] for a in ids]

    def add_paths(self) -> None:
        """Add redundant constraints that help to prove: each task after its predecessors, ignoring slots."""
        top = self.program.highs[self.goal]
        done = [self.program.bounded(0, top) for _ in self.lists.tasks]
        for j, (before, times) in enumerate(zip(self.lists.preds, self.lists.times, strict=True)):
            work = {c: -self.scaled(t) for d, t in enumerate(times) if t < inf for c in self.place(j, d)}
            self.program.add({done[j]: 1.0, **work}, 0, inf)
            self.program.add({self.goal: 1.0, done[j]: -1.0}, 0, inf)
            for i, _ in before:
                self.program.add({done[j]: 1.0, done[i]: -1.0, **work}, 0, inf)

    def _where(self, task: int, device: int) -> int | None:
        """Return a binary variable that is one where a task is on a device."""
        terms = self.place(task, device)
        if not terms:
            return None
        choice = self.program.binary()
        self.program.add({choice: -1.0, **terms}, 0, 0)
        return choice

    def hint(self, parts: list[Part]) -> dict[int, float]:
        """Return the values of the variables for known parts."""
        number = self.lists.numbers
        columns = {device: d for d, device in enumerate(self.lists.devices)}
        values = {c: 0.0 for row in self.cells for cell in row for c in cell.values()}
        values |= {v: 0.0 for devices in self.used for v in devices}
        if len(parts) > len(self.used):
            return {}
        for k, part in enumerate(parts):
            values[self.used[k][columns[part.device]]] = 1.0
            for task in part.nodes:
                values[self.cells[number[task]][k][columns[part.device]]] = 1.0
        return values

    def parts(self, values: tuple[float, ...]) -> list[Part]:
        """Return the segments of a solution."""
        position = {task: i for i, task in enumerate(self.problem.graph)}
        parts = []
        for k in range(len(self.used)):
            inside = [
                (self.lists.tasks[i], self.lists.devices[d])
                for i, row in enumerate(self.cells)
                for d, choice in row[k].items()
                if values[choice] > 0.5
            ]
            if inside:
                parts.append(Part(inside[0][1], tuple(sorted((t for t, _ in inside), key=position.__getitem__))))
        return parts


def _negative(terms: dict[int, float]) -> dict[int, float]:
    return {variable: -c for variable, c in terms.items()}
