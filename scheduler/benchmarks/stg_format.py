"""Task graphs of the Standard Task Graph set (Tobita and Kasahara, 2002, https://doi.org/10.1002/jos.116).

Text: the number of tasks, then a line for each with its number, its time, its number of predecessors, and these. The
first and the last task take no time. Processors are equal, and nothing is transferred.
"""

from __future__ import annotations

import networkx as nx

from trisect.runtime.device import Device
from trisect.runtime.errors import InvalidInput, InvalidModel

from ..problem.problem_tables import ProblemTables
from ..problem.rules import Rules
from ..problem.task_graph import TaskGraph

_MAX_PROCESSORS = 1024
_MAX_TIME = 10**15


def read_stg(text: str, name: str, processors: int) -> ProblemTables:
    """Read one graph for a number of equal processors.

    Raises
    ------
    InvalidModel
        When the text is malformed.
    InvalidInput
        For a number of processors out of range.

    Examples
    --------
    >>> text = "2\\n 0 0 0\\n 1 5 1 0\\n 2 3 1 0\\n 3 0 2 1 2\\n# comment"
    >>> tables = read_stg(text, "small.stg", 2)
    >>> sorted(tables.graph.edges), tables.times_s["1"]["cpu:0"]
    ([('0', '1'), ('0', '2'), ('1', '3'), ('2', '3')], 5.0)
    """
    if not 1 <= processors <= _MAX_PROCESSORS:
        raise InvalidInput(
            f"expected 1 to {_MAX_PROCESSORS} processors, found {processors}", remedy="change the number"
        )
    rows = [line.split() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    try:
        numbers = [[int(word) for word in row] for row in rows]
        (count,), *tasks = numbers
    except ValueError:
        raise InvalidModel(f"{name} is not a standard task graph", remedy="check the file") from None
    if len(tasks) not in (count, count + 2):
        raise InvalidModel(f"{name} declares {count} tasks but has {len(tasks)} lines", remedy="is it truncated?")
    graph: TaskGraph = nx.DiGraph()
    times = {}
    for row in tasks:
        if len(row) < 3 or len(row) != 3 + row[2] or not 0 <= row[1] <= _MAX_TIME:
            raise InvalidModel(f"{name}: the line of task {row[0]} is malformed", remedy="check the file")
        graph.add_node(str(row[0]))
        times[str(row[0])] = {f"cpu:{i}": float(row[1]) for i in range(processors)}
    for row in tasks:
        for predecessor in row[3:]:
            if str(predecessor) not in graph:
                raise InvalidModel(
                    f"{name}: task {row[0]} waits for the missing task {predecessor}", remedy="check the file"
                )
            graph.add_edge(str(predecessor), str(row[0]), tensors={})
    if not nx.is_directed_acyclic_graph(graph) or len(graph) != len(tasks):
        raise InvalidModel(f"{name} has a cycle, or two tasks with the same number", remedy="check the file")
    devices = tuple(Device(f"cpu:{i}", "cpu", "published", f"processor {i}", "published") for i in range(processors))
    return ProblemTables(graph, devices, times, rules=Rules(convention="tasks"))
