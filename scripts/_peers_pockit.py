"""pockit: Radau pseudospectral collocation from SymPy expressions compiled by Numba, IPOPT."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy
from pockit.optimizer import ipopt
from pockit.radau import System, constant_guess

from scripts._peers_resimulate import Answer, Control
from scripts._peers_statements import FreeEnd, Statement

__all__ = ["PEERS", "Pockit"]

OPTIONS = {"print_level": 0, "sb": "yes", "tol": 1e-9, "max_iter": 1000}


class Model:
    """The statement as a system of pockit in scaled states; compiled once, then discretized and solved."""

    def __init__(self, statement: Statement, start: Sequence[float] | None = None) -> None:
        self.statement, n = statement, statement.states
        scales, free = statement.scales, isinstance(statement.horizon, FreeEnd)
        ends = [f"e{i}" for i, value in enumerate(statement.final) if value is None]
        self.system = system = System([*ends, *(["T"] if free else [])])
        self.phase = phase = system.new_phase(
            [f"x{i}" for i in range(n)], [f"u{i}" for i in range(len(statement.lower))]
        )
        x, u = [a * size for a, size in zip(phase.x, scales, strict=True)], list(phase.u)
        rates = statement.dynamics(sympy, phase.t, x, u)
        phase.set_dynamics([rate / size for rate, size in zip(rates, scales, strict=True)])
        if statement.running:
            phase.set_integral([statement.running(sympy, phase.t, x, u)])
        below = statement.below(sympy, phase.t, x) if statement.below else []
        bounds = [
            (control, low, high)
            for control, low, high in zip(u, statement.lower, statement.upper, strict=True)
            if np.isfinite(low) or np.isfinite(high)
        ]
        if below or bounds:
            phase.set_phase_constraint(
                [*(control for control, _, _ in bounds), *below],
                [*(low for _, low, _ in bounds), *(-np.inf for _ in below)],
                [*(high for _, _, high in bounds), *(0.0 for _ in below)],
                [statement.kind == "jumps"] * len(bounds) + [False] * len(below),
            )
        symbols = iter(system.s)
        self.final = [next(symbols) if b is None else b / size for b, size in zip(statement.final, scales, strict=True)]
        self.end = next(symbols) if free else statement.horizon
        self.limit(statement.start)

    def limit(self, start: Sequence[float]) -> None:
        """Set the initial state."""
        first = [a / size for a, size in zip(start, self.statement.scales, strict=True)]
        self.phase.set_boundary_condition(first, list(self.final), 0.0, self.end)

    def discretize(self, intervals: int, points: int) -> None:
        """Set the mesh and, with it, the objective and the bounds of a free final time."""
        statement, system, phase = self.statement, self.system, self.phase
        phase.set_discretization(intervals, points)
        system.set_phase([phase])
        cost = phase.I[0] if statement.running else 0
        if statement.terminal:
            cost = cost + statement.terminal(
                sympy, [value * size for value, size in zip(self.final, statement.scales, strict=True)]
            )
        system.set_objective(cost)
        if isinstance(statement.horizon, FreeEnd):
            system.set_system_constraint([system.s[-1]], [statement.horizon.lower], [statement.horizon.upper])

    def guess(self) -> list[Any]:
        """First control and the states that belong to it."""
        statement, phase = self.statement, self.phase
        variable, horizon = constant_guess(phase, 0.0), statement.first_horizon
        fine = np.linspace(0.0, horizon, 401)
        rows = np.array(statement.first_states(fine.tolist())) / np.array(statement.scales)
        for i, row in enumerate(rows.T):
            variable.x[i] = np.interp(np.asarray(phase.t_x) * horizon, fine, row)
        for i, value in enumerate(statement.first_control):
            variable.u[i] = np.full(len(np.asarray(phase.t_u)), value)
        variable.t_0, variable.t_f = 0.0, horizon
        if not self.system.n_s:
            return [variable]
        ends = [row[-1] for row, value in zip(rows.T, statement.final, strict=True) if value is None]
        return [variable, np.array([*ends, *([horizon] if isinstance(statement.horizon, FreeEnd) else [])])]

    def solve(self, guess: list[Any]) -> tuple[list[Any], Answer]:
        """Solution and answer."""
        found, info = ipopt.solve(self.system, guess if len(guess) > 1 else guess[0], dict(OPTIONS))
        found = found if isinstance(found, list) else [found]
        message = info["status_msg"]
        text = message.decode() if isinstance(message, bytes) else str(message)
        answer = Answer(float(info["obj_val"]), lambda: self.control(found[0]), int(info["status"]) == 0, text[:60])
        return found, answer

    def control(self, variable: Any) -> Control:
        """Polynomials through the points of every interval."""
        phase, end = self.phase, float(variable.t_f)
        breaks, times = np.asarray(phase._mesh) * end, np.asarray(phase.t_u) * end
        values = np.array([variable.u[i] for i in range(phase.n_u)]).T
        places, pieces = [], []
        for k, (a, b) in enumerate(itertools.pairwise(breaks)):
            inside = slice(int(phase.l_u[k]), int(phase.r_u[k]))
            places.append((times[inside] - a) / (b - a))
            pieces.append(values[inside])
        return Control(breaks, places, pieces)


@dataclass(frozen=True)
class Pockit:
    """Intervals of a fixed number of points."""

    points: int
    meshes: tuple[int, ...]
    tool: str = "pockit"
    evidence: str = "KKT conditions of the discretized problem to 1e-9; its own check of the state error"

    @property
    def name(self) -> str:
        """What the tables call it."""
        return f"pockit {self.points}"

    def solve(self, statement: Statement, mesh: int) -> Answer:
        """From the statement to the answer."""
        model = Model(statement)
        model.discretize(mesh, self.points)
        return model.solve(model.guess())[1]

    def prepare(self, statement: Statement, mesh: int) -> Callable[[], Answer]:
        """The compiled model with another initial state, guessed from the first solution."""
        model = Model(statement)
        model.discretize(mesh, self.points)
        found, _ = model.solve(model.guess())

        def again() -> Answer:
            model.limit(statement.nearby)
            model.system.update()
            return model.solve(found)[1]

        return again


PEERS: tuple[Pockit, ...] = (Pockit(10, (2, 8, 32, 128)),)  # four times, not twice: what takes long is to compile
