"""Expressions as a list of instructions, carried out at many points at once; in C where that was compiled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from ocsolver.tape.graph import BINARY, UNARY, Graph

try:
    from ocsolver.tape import _program as compiled
except ImportError:  # there was no compiler
    compiled = None  # type: ignore[assignment]

__all__ = ["Program", "simulated"]

Array = np.ndarray[Any, np.dtype[np.float64]]

OPERATIONS = (*BINARY, *UNARY, "select")  # their order is that of `_program.c`
CODES = {name: code for code, name in enumerate(OPERATIONS)}
CHUNK = 4096  # points at a time in NumPy, so that registers stay in the cache


class Program:
    """Outputs as functions of inputs.

    Parameters
    ----------
    graph : Graph
        Holds the expressions.
    inputs : sequence of int
        Nodes of the variables, in the order in which `run` gets their values.
    outputs : sequence of sequence of int
        Nodes to compute, in groups; each group gets an array of its own.
    """

    def __init__(self, graph: Graph, inputs: Sequence[int], outputs: Sequence[Sequence[int]]) -> None:
        place: dict[int, int] = {node: i for i, node in enumerate(inputs)}
        steps: list[tuple[str, int, list[int]]] = []
        numbers: list[int] = []
        for node in graph.needed([node for group in outputs for node in group]):
            name, *arguments = graph.code[node]
            if name == "constant":
                numbers.append(node)
            elif name != "input":
                place[node] = len(inputs) + len(steps)
                steps.append((name, node, arguments))
            elif node not in place:
                raise ValueError(f"the outputs depend on {arguments[0]!r}, which is no input of this program")
        place.update((node, len(inputs) + len(steps) + i) for i, node in enumerate(numbers))
        self.registers = len(inputs) + len(steps) + len(numbers)
        self.numbers = np.array([graph.code[node][1] for node in numbers])
        rows = []
        for name, node, arguments in steps:
            filled = [place[a] for a in arguments] + [0] * (3 - len(arguments))
            rows.append((CODES[name], place[node], *filled))
        self.code = np.array(rows, np.int32).reshape(-1, 5)
        self.widths = [len(group) for group in outputs]
        places = [(k, j, node) for k, group in enumerate(outputs) for j, node in enumerate(group)]
        known = [graph.value(node) for _, _, node in places]
        self.template = np.array([0.0 if value is None else value for value in known])
        varying = [row for row, value in zip(places, known, strict=True) if value is None]
        self.targets = np.array([(k, j, place[node]) for k, j, node in varying], np.int32).reshape(-1, 3)
        self.parts = self.code, self.numbers, self.registers, self.targets, self.template  # as its part in C takes it

    def run(self, *inputs: Array) -> tuple[Array, ...]:
        """Values of the outputs at many points.

        Parameters
        ----------
        *inputs : ndarray, shape (points, columns)
            Values of the inputs; their columns stand in one or several arrays.

        Returns
        -------
        tuple of ndarray, shape (points, outputs)
            One for each group of outputs.
        """
        outputs = tuple(np.empty((len(inputs[0]), width)) for width in self.widths)
        self.bound([np.ascontiguousarray(part) for part in inputs], outputs)()
        return outputs

    def bound(self, inputs: Sequence[Array], outputs: Sequence[Array]) -> Callable[[], None]:
        """A function that computes outputs, in arrays that are there, from the inputs as they are at each call.

        Shapes are those of `run`; the arrays have no gaps in memory.
        """
        if compiled is not None:
            return partial(compiled.run, self.parts, tuple(inputs), tuple(outputs))
        return partial(self._in_chunks, inputs, outputs)

    def _in_chunks(self, inputs: Sequence[Array], outputs: Sequence[Array]) -> None:
        with np.errstate(all="ignore"):
            for first in range(0, len(inputs[0]), CHUNK):
                rows = slice(first, first + CHUNK)
                self._chunk([part[rows] for part in inputs], [out[rows] for out in outputs])

    def simulate(self, t: Array, x0: Array, u: Array) -> tuple[Array, Array]:
        """States by steps of the classical Runge–Kutta method, for a program of rates f with the inputs t, x, u.

        Parameters
        ----------
        t : ndarray, shape (N + 1, G)
            Times of each group.
        x0 : ndarray, shape (G, v)
            States at the first of them.
        u : ndarray, shape (N, G, m)
            Controls between them.

        Returns
        -------
        (ndarray, ndarray)
            States (N + 1, G, v), and rates at the beginning of each step (N, G, v).
        """
        if compiled is not None:
            x, slopes = np.empty((len(t), *x0.shape)), np.empty((len(u), *x0.shape))
            x[0] = x0
            inside = np.ascontiguousarray(t), np.ascontiguousarray(u)
            compiled.simulate(self.parts, inside, (x, slopes))
            return x, slopes
        return simulated(lambda t, x, u: self.run(t[:, None], x, u)[0], t, x0, u)

    def _chunk(self, inputs: Sequence[Array], outputs: Sequence[Array]) -> None:
        registers: list[Any] = [column for part in inputs for column in np.ascontiguousarray(part.T)]
        registers += [None] * (self.registers - len(registers))
        registers[self.registers - len(self.numbers) :] = list(self.numbers)
        for code, target, a, b, c in self.code.tolist():
            if code < len(BINARY):
                registers[target] = FUNCTIONS[code](registers[a], registers[b])
            elif code < len(FUNCTIONS):
                registers[target] = FUNCTIONS[code](registers[a])
            else:
                registers[target] = np.where(registers[a] != 0.0, registers[b], registers[c])
        start = 0
        for out in outputs:
            out[...] = self.template[start : start + out.shape[1]]
            start += out.shape[1]
        for k, j, source in self.targets.tolist():
            outputs[k][:, j] = registers[source]


def simulated(rates: Callable[[Array, Array, Array], Array], t: Array, x0: Array, u: Array) -> tuple[Array, Array]:
    """The same for any rates f(t, x, u) with t (G,), x (G, v), u (G, m)."""
    states, slopes = [x0], []
    for k, value in enumerate(u):
        x, h = states[-1], (t[k + 1] - t[k])[:, None]
        half = 0.5 * (t[k] + t[k + 1])
        k1 = rates(t[k], x, value)
        k2 = rates(half, x + h / 2 * k1, value)
        k3 = rates(half, x + h / 2 * k2, value)
        k4 = rates(t[k + 1], x + h * k3, value)
        states.append(x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4))
        slopes.append(k1)
    return np.array(states), np.array(slopes)


FUNCTIONS: tuple[Callable[..., Any], ...] = (*BINARY.values(), *UNARY.values())
