"""A problem's functions and their derivatives as programs of expressions; it falls back on nothing itself."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import cache
from typing import Any, NamedTuple, TypeVar
from weakref import WeakKeyDictionary, ref

import numpy as np
import torch
from torch import Tensor

from ocsolver.tape import Graph, Program, Untraceable, gradient, jacobian, trace

__all__ = ["EndTape", "PointTape", "end_tape", "no_end_tape", "point_tape", "remembered"]

Array = np.ndarray[Any, np.dtype[np.float64]]
Tape = TypeVar("Tape")

MOST_ENTRIES = 8  # tapes remembered of one function


def remembered(functions: Sequence[Any], extra: Hashable, build: Callable[[], Tape], *, anew: bool) -> Tape | None:
    """A tape of the same functions made before, or a new one; None if they cannot be traced.

    Nothing is kept of functions that are gone, and they are not kept alive. What they refer to may have changed:
    callers compare, and ask for the tape `anew` if it is wrong.
    """
    refs = []
    try:
        first = next((function for function in functions if function is not None), None)
        entries = _MEMORY.setdefault(first, [])
        refs = [None if function is None else ref(function) for function in functions]
    except TypeError:  # no weak references: nothing can be remembered
        entries = []
    mine = [
        entry
        for entry in entries
        if entry[1] == extra
        and all(
            function is (None if known is None else known())
            for known, function in zip(entry[0], functions, strict=True)
        )
    ]
    if mine and not anew:
        tape: Tape | None = mine[0][2]
        return tape
    try:
        tape = build()
    except Untraceable:
        tape = None
    entries[:] = [entry for entry in entries if entry not in mine][: MOST_ENTRIES - 1]
    entries.insert(0, (refs, extra, tape))
    return tape


_MEMORY: WeakKeyDictionary[Any, list[tuple[list[Any], Hashable, Any]]] = WeakKeyDictionary()


class PointTape(NamedTuple):
    """Programs of q = (f, L, c)."""

    rates: Program  # (t, x, u) -> f
    values: Program  # (t, x, u) -> f, L, c
    derivatives: Program  # (t, x, u, p, y) -> f, L, c, ∂q/∂z, Hessian of −p·f + L + y·c


class EndTape(NamedTuple):
    """Programs of (Φ, c) at the end."""

    values: Program  # x -> Φ, c
    derivatives: Program  # (x, ν) -> Φ, c, ∇Φ, ∂c/∂x, Hessian of Φ + ν·c


def point_tape(functions: Callable[[Tensor, Tensor], Tensor], t: float, z: Array, v: int) -> PointTape:
    """Trace q(t, z) of one group at a point z (v + m,)."""
    graph = Graph()
    time, D = graph.input("t"), z.size
    variables = [graph.input(("z", i)) for i in range(D)]
    nodes = _traced(graph, lambda one, many: functions(one[..., 0], many), ([t], [time]), (z.tolist(), variables))
    f, running, c = nodes[:v], nodes[v : v + 1], nodes[v + 1 :]
    p, y = [graph.input(("p", i)) for i in range(v)], [graph.input(("y", i)) for i in range(len(c))]
    weighted = [graph.unary("neg", graph.binary("mul", a, b)) for a, b in zip(p, f, strict=True)]
    weighted += [*running, *(graph.binary("mul", a, b) for a, b in zip(y, c, strict=True))]
    rows = jacobian(graph, nodes, variables)
    hessian = _hessian(graph, graph.total(weighted), variables)
    inputs = [time, *variables]
    return PointTape(
        Program(graph, inputs, [f]),
        Program(graph, inputs, [f, running, c]),
        Program(graph, [*inputs, *p, *y], [f, running, c, _flat(rows), _flat(hessian)]),
    )


def end_tape(functions: Callable[[Tensor], Tensor], x: Array) -> EndTape:
    """Trace (Φ, c) of one group at a state x (v,)."""
    graph = Graph()
    variables = [graph.input(("x", i)) for i in range(x.size)]
    nodes = _traced(graph, lambda state: functions(state[0]), (x.tolist(), variables))
    cost, c = nodes[:1], nodes[1:]
    nu = [graph.input(("nu", i)) for i in range(len(c))]
    weighted = [*cost, *(graph.binary("mul", a, b) for a, b in zip(nu, c, strict=True))]
    rows = jacobian(graph, nodes, variables)
    hessian = _hessian(graph, graph.total(weighted), variables)
    return EndTape(
        Program(graph, variables, [cost, c]),
        Program(graph, [*variables, *nu], [cost, c, rows[0], _flat(rows[1:]), _flat(hessian)]),
    )


@cache
def no_end_tape(v: int) -> EndTape:
    """The programs where the end of v states costs nothing."""
    graph = Graph()
    variables, zero = [graph.input(("x", i)) for i in range(v)], graph.zero
    values = Program(graph, variables, [[zero], []])
    return EndTape(values, Program(graph, variables, [[zero], [], [zero] * v, [], [zero] * v * v]))


def _traced(graph: Graph, function: Callable[..., Tensor], *inputs: tuple[list[float], list[int]]) -> list[int]:
    """Nodes of a function of one point: its arguments and its result have the shape (1, 1, 1, components)."""
    pairs = [
        (torch.tensor(values, dtype=torch.float64).reshape(1, 1, 1, -1), np.array(nodes).reshape(1, 1, 1, -1))
        for values, nodes in inputs
    ]
    found: list[int] = trace(graph, function, pairs).ravel().tolist()
    return found


def _hessian(graph: Graph, output: int, variables: list[int]) -> list[list[int]]:
    """Second derivatives, the lower half shown twice."""
    half = jacobian(graph, gradient(graph, output, variables), variables, lower=True)
    return [[half[max(i, j)][min(i, j)] for j in range(len(variables))] for i in range(len(variables))]


def _flat(rows: list[list[int]]) -> list[int]:
    return [node for row in rows for node in row]
