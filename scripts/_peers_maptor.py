"""maptor: Radau pseudospectral collocation with IPOPT, on fixed meshes and with its own adaptive refinement."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import casadi as ca
import maptor
import numpy as np

from scripts._peers_resimulate import Answer, Control
from scripts._peers_statements import FreeEnd, Statement

__all__ = ["PEERS", "Maptor"]

OPTIONS = {
    "ipopt.print_level": 0,
    "ipopt.sb": "yes",
    "print_time": 0,
    "ipopt.tol": 1e-9,
    "ipopt.max_iter": 1000,
    "ipopt.linear_solver": "mumps",
}
logging.disable(logging.WARNING)


def side(value: float) -> float | None:
    """A bound as maptor wants it."""
    return float(value) if np.isfinite(value) else None


def build(statement: Statement, intervals: int, degree: int, start: Sequence[float] | None = None) -> Any:
    """The statement on a mesh of equal intervals, in scaled states."""
    problem = maptor.Problem(statement.id)
    phase = problem.set_phase(1)
    free, scales = statement.horizon, statement.scales
    ends = (free.lower, free.upper) if isinstance(free, FreeEnd) else float(free)
    t = phase.time(initial=0.0, final=ends)
    rows = zip(start or statement.start, statement.final, scales, strict=True)
    states = [
        phase.state(f"x{i}", initial=a / size, final=None if b is None else b / size)
        for i, (a, b, size) in enumerate(rows)
    ]
    bounds = zip(statement.lower, statement.upper, strict=True)
    u = [phase.control(f"u{i}", boundary=(side(low), side(high))) for i, (low, high) in enumerate(bounds)]
    x = [state() * size for state, size in zip(states, scales, strict=True)]
    controls = [control() if hasattr(control, "_symbolic_var") else control for control in u]
    rates = statement.dynamics(ca, t(), x, controls)
    phase.dynamics({state: rate / size for state, rate, size in zip(states, rates, scales, strict=True)})
    if statement.below:
        phase.path_constraints(*(value <= 0 for value in statement.below(ca, t(), x)))
    cost: Any = 0.0
    if statement.running:
        cost = phase.add_integral(statement.running(ca, t(), x, controls))
    if statement.terminal:
        cost = cost + statement.terminal(ca, [state.final * size for state, size in zip(states, scales, strict=True)])
    problem.minimize(cost)
    phase.mesh([degree] * intervals, np.linspace(-1.0, 1.0, intervals + 1))
    guess(statement, phase, intervals, degree)
    return problem


def guess(statement: Statement, phase: Any, intervals: int, degree: int) -> None:
    """First control and the states that belong to it, at the points of every interval."""
    horizon = statement.first_horizon
    nodes = np.linspace(0.0, horizon, intervals + 1)
    fine = np.linspace(0.0, horizon, 10 * intervals + 1)
    rows = np.array(statement.first_states(fine.tolist())) / np.array(statement.scales)
    places = np.append((np.array(radau_points(degree)) + 1) / 2, 1.0)
    states, controls = [], []
    for a, b in itertools.pairwise(nodes):
        times = a + (b - a) * places
        states.append(np.array([np.interp(times, fine, column) for column in rows.T]))
        controls.append(np.tile(statement.first_control, (degree, 1)).T)
    timing = {"terminal_time": horizon} if isinstance(statement.horizon, FreeEnd) else {}
    phase.guess(states=states, controls=controls, **timing)


def radau_points(degree: int) -> list[float]:
    """Legendre–Gauss–Radau points in [−1, 1), −1 among them."""
    return sorted(1.0 - 2.0 * float(place) for place in ca.collocation_points(degree, "radau"))


@dataclass(frozen=True)
class Maptor:
    """Fixed meshes of one degree, or the adaptive solver, where the mesh is the exponent of its error tolerance."""

    adaptive: bool
    meshes: tuple[int, ...]
    degree: int = 5
    tool: str = "maptor"
    evidence: str = "KKT conditions of the discretized problem to 1e-9; its own estimate of the state error"

    @property
    def name(self) -> str:
        """What the tables call it."""
        return "maptor adaptive" if self.adaptive else f"maptor {self.degree}"

    def solve(self, statement: Statement, mesh: int) -> Answer:
        """From the statement to the answer."""
        if self.adaptive:
            problem = build(statement, 5, self.degree)
            tolerance = 10.0**-mesh
            return self.answer(
                maptor.solve_adaptive(problem, error_tolerance=tolerance, nlp_options=dict(OPTIONS), show_summary=False)
            )
        problem = build(statement, mesh, self.degree)
        return self.answer(maptor.solve_fixed_mesh(problem, nlp_options=dict(OPTIONS), show_summary=False))

    def prepare(self, statement: Statement, mesh: int) -> Callable[[], Answer] | None:
        """Nothing: it transcribes every time."""
        return None

    def answer(self, solution: Any) -> Answer:
        """Cost, message and the polynomials through the collocation points of each interval."""
        status = solution.status
        return Answer(
            float(status["objective"]), lambda: self.control(solution), bool(status["success"]), str(status["message"])
        )

    def control(self, solution: Any) -> Control:
        """The control on every interval."""
        phase = solution.phases[1]
        end, degrees = float(phase["times"]["final"]), list(phase["mesh"]["polynomial_degrees"])
        breaks = (np.asarray(phase["mesh"]["mesh_nodes"]) + 1) / 2 * end
        times = np.asarray(phase["time_arrays"]["controls"])
        values = np.array([solution[(1, name)] for name in phase["variables"]["control_names"]]).T
        places, pieces = [], []
        for a, b in itertools.pairwise(breaks):
            inside = (times >= a - 1e-9 * end) & (times < b - 1e-9 * end)
            places.append((times[inside] - a) / (b - a))
            pieces.append(values[inside])
        if [len(place) for place in places] != degrees:
            raise ValueError("The control of maptor is not at the points that its mesh tells.")
        return Control(breaks, places, pieces)


PEERS: tuple[Maptor, ...] = (
    Maptor(adaptive=True, meshes=(6,)),
    Maptor(adaptive=False, meshes=(5, 10, 20, 40, 80, 160, 320)),
)
