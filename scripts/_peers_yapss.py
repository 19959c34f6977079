"""YAPSS: pseudospectral collocation at Legendre–Gauss–Radau points, segments of equal length, IPOPT."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import yapss
import yapss.math as ym

from scripts._peers_resimulate import Answer, Control
from scripts._peers_statements import FreeEnd, Statement

__all__ = ["PEERS", "Yapss"]


def build(statement: Statement, segments: int, points: int) -> Any:
    """The statement as a problem of YAPSS with its bounds, guess and mesh."""
    has_cost, below = statement.running is not None, statement.below
    checks = len(below(np, 0.0, np.ones(statement.states))) if below else 0
    problem = yapss.Problem(
        name=statement.id, nx=[statement.states], nu=[statement.controls], nq=[int(has_cost)], nh=[checks]
    )

    def continuous(arg: Any) -> None:
        phase = arg.phase[0]
        x, u, t = list(phase.state), list(phase.control), phase.time
        phase.dynamics[:] = tuple(statement.dynamics(ym, t, x, u))
        if statement.running is not None:
            phase.integrand[:] = (statement.running(ym, t, x, u),)
        if below:
            phase.path[:] = tuple(below(ym, t, x))

    def objective(arg: Any) -> None:
        phase = arg.phase[0]
        cost = phase.integral[0] if has_cost else 0.0
        if statement.terminal is not None:
            cost = cost + statement.terminal(ym, list(phase.final_state))
        arg.objective = cost

    problem.functions.continuous, problem.functions.objective = continuous, objective
    bounds, free = problem.bounds.phase[0], statement.horizon
    bounds.initial_time.lower = bounds.initial_time.upper = 0.0
    lower, upper = (free.lower, free.upper) if isinstance(free, FreeEnd) else (free, free)
    bounds.final_time.lower, bounds.final_time.upper = lower, upper
    bounds.initial_state.lower[:] = bounds.initial_state.upper[:] = statement.start
    for i, value in enumerate(statement.final):
        if value is not None:
            bounds.final_state.lower[i] = bounds.final_state.upper[i] = value
    bounds.control.lower[:], bounds.control.upper[:] = statement.lower, statement.upper
    if checks:
        bounds.path.upper[:] = 0.0
    guess, times = problem.guess.phase[0], np.linspace(0.0, statement.first_horizon, 201)
    guess.time = times
    guess.state = np.array(statement.first_states(times.tolist())).T
    guess.control = np.tile(statement.first_control, (len(times), 1)).T
    problem.mesh.phase[0].collocation_points = segments * (points,)
    problem.mesh.phase[0].fraction = segments * (1.0 / segments,)
    problem.scale.phase[0].state[:] = statement.scales
    problem.scale.objective = max(1.0, abs(statement.cost)) if max(statement.scales) > 1.0 else 1.0
    problem.spectral_method = "lgr"
    problem.derivatives.method, problem.derivatives.order = "auto", "second"
    problem.ipopt_options.print_level, problem.ipopt_options.sb = 0, "yes"
    problem.ipopt_options.tol, problem.ipopt_options.max_iter = 1e-9, 1000
    return problem


@dataclass(frozen=True)
class Yapss:
    """Segments of a fixed number of collocation points."""

    points: int
    meshes: tuple[int, ...]
    tool: str = "YAPSS"
    evidence: str = "KKT conditions of the discretized problem to 1e-9; costates and H at the points"

    @property
    def name(self) -> str:
        """What the tables call it."""
        return f"YAPSS {self.points}"

    def solve(self, statement: Statement, mesh: int) -> Answer:
        """From the statement to the answer."""
        return self.answer(build(statement, mesh, self.points).solve(), mesh)

    def prepare(self, statement: Statement, mesh: int) -> Callable[[], Answer]:
        """The same problem with another initial state in its bounds, guessed from the first solution."""
        problem = build(statement, mesh, self.points)
        before = problem.solve()
        guess, phase = problem.guess.phase[0], before.phase[0]
        guess.time, guess.state = phase.time, phase.state
        guess.control = np.array([np.interp(phase.time, phase.time_c, row) for row in phase.control])
        bounds = problem.bounds.phase[0]
        bounds.initial_state.lower[:] = bounds.initial_state.upper[:] = statement.nearby
        return lambda: self.answer(problem.solve(), mesh)

    def answer(self, solution: Any, mesh: int) -> Answer:
        """Cost, message and the polynomials through the collocation points of each segment."""
        message = str(solution.nlp_info.ipopt_status_message)
        success = int(solution.nlp_info.ipopt_status) == 0
        return Answer(float(solution.objective), lambda: self.control(solution, mesh), success, message)

    def control(self, solution: Any, mesh: int) -> Control:
        """The control on every segment."""
        phase = solution.phase[0]
        breaks = np.linspace(0.0, float(phase.final_time), mesh + 1)
        times = np.asarray(phase.time_c).reshape(mesh, self.points)
        values = np.asarray(phase.control).T.reshape(mesh, self.points, -1)
        places = (times - breaks[:-1, None]) / np.diff(breaks)[:, None]
        return Control(breaks, list(places), list(values))


PEERS: tuple[Yapss, ...] = (
    Yapss(4, (5, 10, 20, 40, 80, 160, 320, 640, 1280)),
    Yapss(10, (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)),
)
