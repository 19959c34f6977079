"""GEKKO: collocation on finite elements by its own executable with IPOPT, piecewise linear controls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gekko
import numpy as np

from scripts._peers_resimulate import Answer, Control
from scripts._peers_statements import FreeEnd, Statement

__all__ = ["PEERS", "Gekko"]

WEIGHT = 1e8  # of a squared miss of the final state: `fix_final` would fix the derivative there, too


def build(statement: Statement, mesh: int) -> tuple[Any, list[Any], Any]:
    """The model, its controls and its final time, on relative time, in scaled states, with the cost as a state."""
    model = gekko.GEKKO(remote=False)
    model.time = np.linspace(0.0, 1.0, mesh + 1)
    free, scales = statement.horizon, statement.scales
    if isinstance(free, FreeEnd):
        end = model.FV(value=free.guess, lb=free.lower, ub=free.upper)
        end.STATUS = 1
    else:
        end = free
    rows = np.array(statement.first_states((model.time * statement.first_horizon).tolist())) / np.array(scales)
    states = [model.Var(value=row.tolist()) for row in rows.T]
    controls = []
    for low, high, first in zip(statement.lower, statement.upper, statement.first_control, strict=True):
        limits = {"lb": low, "ub": high} if np.isfinite(low) and np.isfinite(high) else {}
        control = model.MV(value=first, fixed_initial=False, **limits)
        control.STATUS, control.DCOST = 1, 0
        controls.append(control)
    clock = model.Param(value=model.time)
    x = [state * size for state, size in zip(states, scales, strict=True)]
    t = clock * end
    for state, rate, size in zip(states, statement.dynamics(model, t, x, controls), scales, strict=True):
        model.Equation(state.dt() == rate * end / size)
    last = np.zeros(mesh + 1)
    last[-1] = 1.0
    final = model.Param(value=last)
    if statement.running:
        cost = model.Var(value=0.0)
        model.Equation(cost.dt() == statement.running(model, t, x, controls) * end)
        model.Minimize(cost * final)
    if statement.terminal:
        model.Minimize(statement.terminal(model, x) * final)
    for state, value, size in zip(states, statement.final, scales, strict=True):
        if value is not None:
            model.Minimize(WEIGHT * final * (state - value / size) ** 2)
    for expression in statement.below(model, t, x) if statement.below else ():
        model.Equation(expression <= 0)
    options = model.options
    options.IMODE, options.NODES, options.SOLVER, options.MAX_ITER, options.MV_TYPE = 6, 5, 3, 1000, 1
    options.RTOL, options.OTOL = 1e-9, 1e-9
    return model, controls, end


@dataclass(frozen=True)
class Gekko:
    """Piecewise linear controls, five nodes per element.

    Controls by steps are taken at the wrong end of an element, or only inside of it, depending on the number of nodes.
    """

    name: str = "GEKKO"
    meshes: tuple[int, ...] = (25, 50, 100, 200, 400, 800)
    tool: str = "GEKKO"
    evidence: str = "the solver's own tolerance on the discretized problem"

    def solve(self, statement: Statement, mesh: int) -> Answer:
        """From the statement to the answer."""
        model, controls, end = build(statement, mesh)
        try:
            model.solve(disp=False)
            horizon = float(list(end.value)[-1]) if isinstance(statement.horizon, FreeEnd) else float(end)
            values = np.array([list(control.value) for control in controls], float).T
            objective, success = float(model.options.OBJFCNVAL), int(model.options.APPSTATUS) == 1
        finally:
            model.cleanup()

        def control() -> Control:
            breaks = np.linspace(0.0, horizon, mesh + 1)
            pairs = np.stack((values[:-1], values[1:]), 1)
            return Control(breaks, [np.array([0.0, 1.0])] * mesh, list(pairs))

        return Answer(objective, control, success, "solved" if success else "not solved")

    def prepare(self, statement: Statement, mesh: int) -> Callable[[], Answer] | None:
        """Nothing: each solve writes the model and starts the executable anew."""
        return None


PEERS: tuple[Gekko, ...] = (Gekko(),)
