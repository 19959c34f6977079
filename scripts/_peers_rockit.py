"""rockit: multiple shooting and direct collocation with piecewise constant or linear controls, IPOPT."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import casadi as ca
import numpy as np
import rockit

from scripts._peers_resimulate import Answer, Control
from scripts._peers_statements import FreeEnd, Statement

__all__ = ["PEERS", "Rockit"]

OPTIONS = {
    "print_time": False,
    "ipopt.print_level": 0,
    "ipopt.sb": "yes",
    "ipopt.tol": 1e-9,
    "ipopt.max_iter": 1000,
}


class Ocp:
    """The statement as a problem of rockit, with the initial state as a parameter."""

    def __init__(self, statement: Statement, method: Any, order: int, expand: bool) -> None:
        self.statement, self.order, free = statement, order, statement.horizon
        ocp = rockit.Ocp(t0=0.0, T=rockit.FreeTime(free.guess) if isinstance(free, FreeEnd) else free)
        x = [ocp.state(scale=size) for size in statement.scales]
        u = [ocp.control(order=order) for _ in statement.lower]
        p = ocp.parameter(statement.states)
        for state, rate in zip(x, statement.dynamics(ca, ocp.t, x, u), strict=True):
            ocp.set_der(state, rate)
        if statement.running:
            ocp.add_objective(ocp.integral(ca.MX(statement.running(ca, ocp.t, x, u))))
        if statement.terminal:
            ocp.add_objective(ocp.at_tf(statement.terminal(ca, x)))
        if isinstance(free, FreeEnd):
            ocp.subject_to(free.lower <= (free.upper >= ocp.T))
        for i, (state, value, size) in enumerate(zip(x, statement.final, statement.scales, strict=True)):
            ocp.subject_to(ocp.at_t0(state) == p[i], scale=size)
            if value is not None:
                ocp.subject_to(ocp.at_tf(state) == value)
        for control, low, high in zip(u, statement.lower, statement.upper, strict=True):
            if np.isfinite(low) and np.isfinite(high):
                ocp.subject_to(low <= (control <= high))
        for value in statement.below(ca, ocp.t, x) if statement.below else ():
            ocp.subject_to(value <= 0)
        ocp.set_value(p, list(statement.start))
        for control, value in zip(u, statement.first_control, strict=True):
            ocp.set_initial(control, value)
        rows = np.array(statement.first_states(np.linspace(0.0, statement.first_horizon, method.N + 1).tolist()))
        for state, row in zip(x, rows.T, strict=True):
            ocp.set_initial(state, row)
        ocp.solver("ipopt", {**OPTIONS, "expand": expand})
        ocp.method(method)
        self.ocp, self.x, self.u, self.p = ocp, x, u, p

    def solve(self) -> tuple[Any, Answer]:
        """Solution and answer."""
        solution = self.ocp.solve()
        stats = solution.stats
        cost = float(solution.value(self.ocp.objective))
        return solution, Answer(cost, lambda: self.control(solution), bool(stats["success"]), stats["return_status"])

    def control(self, solution: Any) -> Control:
        """Constants or lines on the control grid."""
        samples = [solution.sample(control, grid="control") for control in self.u]
        breaks = np.asarray(samples[0][0], float).ravel()
        values = np.array([np.asarray(sample[1], float).ravel() for sample in samples]).T
        if self.order == 0:
            return Control(breaks, [np.array([0.5])] * (len(breaks) - 1), list(values[:-1, None, :]))
        pairs = np.stack((values[:-1], values[1:]), 1)
        return Control(breaks, [np.array([0.0, 1.0])] * (len(breaks) - 1), list(pairs))


@dataclass(frozen=True)
class Rockit:
    """Multiple shooting by RK4: constant controls where the optimum jumps, piecewise linear ones elsewhere."""

    name: str = "rockit RK4"
    meshes: tuple[int, ...] = (25, 50, 100, 200, 400, 800)
    tool: str = "rockit"
    evidence: str = "KKT conditions of the discretized problem to 1e-9"

    def build(self, statement: Statement, mesh: int, expand: bool) -> Ocp:
        """The problem with its method."""
        order = 0 if statement.kind == "jumps" else 1
        return Ocp(statement, rockit.MultipleShooting(N=mesh, intg="rk"), order, expand)

    def solve(self, statement: Statement, mesh: int) -> Answer:
        """From the statement to the answer."""
        return self.build(statement, mesh, False).solve()[1]

    def prepare(self, statement: Statement, mesh: int) -> Callable[[], Answer]:
        """The transcribed problem with another initial state as its parameter, guessed from the first solution."""
        made = self.build(statement, mesh, True)
        solution, _ = made.solve()
        for number, variable in enumerate((*made.x, *made.u)):
            row = np.asarray(solution.sample(variable, grid="control")[1], float).ravel()
            made.ocp.set_initial(variable, row if made.order or number < len(made.x) else row[:-1])
        made.ocp.set_value(made.p, list(statement.nearby))
        return lambda: made.solve()[1]


PEERS: tuple[Rockit, ...] = (Rockit(),)
