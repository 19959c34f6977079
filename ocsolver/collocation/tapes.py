"""A problem's functions and their derivatives as programs of expressions; it falls back on nothing itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ocsolver.tape import Graph, Program, gradient, jacobian, trace

__all__ = ["EndTape", "PointTape", "end_tape", "point_tape"]

Array = np.ndarray[Any, np.dtype[np.float64]]


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
    half = jacobian(graph, gradient(graph, output, variables), variables)
    return [[half[max(i, j)][min(i, j)] for j in range(len(variables))] for i in range(len(variables))]


def _flat(rows: list[list[int]]) -> list[int]:
    return [node for row in rows for node in row]
