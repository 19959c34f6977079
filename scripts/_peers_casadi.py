"""CasADi written for speed, as its documentation recommends: one stage as an SX function, mapped over the horizon.

Every transcription here is a stage x_{k+1} = F(x_k, v_k) with equalities on its variables v_k, so that IPOPT and fatrop
take the same problem: v_k is a control (multiple shooting) or states and controls at collocation points. The initial
state is a parameter of the solver, so that it may be solved again from another one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import casadi as ca
import numpy as np

from scripts._peers_resimulate import Answer, Control
from scripts._peers_statements import FreeEnd, Statement

__all__ = ["PEERS", "Casadi", "Solver"]

IPOPT = {
    "print_time": False,
    "ipopt.print_level": 0,
    "ipopt.sb": "yes",
    "ipopt.tol": 1e-9,
    "ipopt.max_iter": 1000,
    "ipopt.linear_solver": "mumps",
    "ipopt.bound_relax_factor": 0.0,
}
IPOPT_WARM = {
    "ipopt.warm_start_init_point": "yes",
    "ipopt.mu_init": 1e-7,
    "ipopt.warm_start_bound_push": 1e-9,
    "ipopt.warm_start_bound_frac": 1e-9,
    "ipopt.warm_start_slack_bound_push": 1e-9,
    "ipopt.warm_start_slack_bound_frac": 1e-9,
    "ipopt.warm_start_mult_bound_push": 1e-9,
}
FATROP = {
    "print_time": False,
    "structure_detection": "auto",
    "fatrop.print_level": 0,
    "fatrop.tol": 1e-9,
    "fatrop.max_iter": 1000,
}
FATROP_WARM = {"fatrop.warm_start_init_point": True, "fatrop.mu_init": 1e-7}


@dataclass(frozen=True)
class Stage:
    """One interval: its function (x, v, t, h) -> (next, equalities, cost) and what its variables are.

    Parameters
    ----------
    function : casadi.Function
        States are scaled and contain the final time where that is free; h is the interval relative to the horizon.
    places : array
        Relative places of the control values in the interval.
    states : array
        Relative places of the states among the variables, empty for shooting.
    checks : tuple
        Number of equalities and of inequalities (≤ 0) among the constraints.
    """

    function: Any
    places: np.ndarray
    states: np.ndarray
    checks: tuple[int, int]


def field(statement: Statement) -> Any:
    """Derivatives of the scaled states, the free final time among them, and of the cost in relative time."""
    n, free = statement.states, isinstance(statement.horizon, FreeEnd)
    x, u, s = ca.SX.sym("x", n + free), ca.SX.sym("u", statement.controls), ca.SX.sym("s")
    horizon = x[n] if free else statement.horizon
    scale = np.array(statement.scales)
    states, controls = ca.vertsplit(x[:n] * scale), ca.vertsplit(u)
    rates = ca.vertcat(*statement.dynamics(ca, s * horizon, states, controls)) * horizon / scale
    cost = statement.running(ca, s * horizon, states, controls) * horizon if statement.running else 0
    below = statement.below(ca, s * horizon, states) if statement.below else []
    return ca.Function("field", [s, x, u], [ca.vertcat(rates, 0) if free else rates, cost, ca.vertcat(*below)])


def shooting(statement: Statement, values: int) -> Stage:
    """Multiple shooting, one step of RK4: the control constant, or a parabola through both ends and the middle."""
    f = field(statement)
    n, m = f.size1_in(1), statement.controls
    x, v, s, h = ca.SX.sym("x", n), ca.SX.sym("v", m * values), ca.SX.sym("s"), ca.SX.sym("h")
    first, middle, last = (v[:m],) * 3 if values == 1 else ca.vertsplit(v, m)
    k1, q1, below = f(s, x, first)
    k2, q2, _ = f(s + h / 2, x + h / 2 * k1, middle)
    k3, q3, _ = f(s + h / 2, x + h / 2 * k2, middle)
    k4, q4, _ = f(s + h, x + h * k3, last)
    end, cost = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), h / 6 * (q1 + 2 * q2 + 2 * q3 + q4)
    function = ca.Function("stage", [x, v, s, h], [end, below, cost])
    places = np.array([0.0]) if values == 1 else np.array([0.0, 0.5, 1.0])
    return Stage(function, places, np.array([]), (0, below.numel()))


def collocation(statement: Statement, degree: int, scheme: str) -> Stage:
    """States and controls at the Radau or Legendre points of the interval."""
    f = field(statement)
    n, m = f.size1_in(1), statement.controls
    places = np.array(ca.collocation_points(degree, scheme))
    derivative, last, weights = ca.collocation_coeff(list(places))
    x, v, s, h = ca.SX.sym("x", n), ca.SX.sym("v", (n + m) * degree), ca.SX.sym("s"), ca.SX.sym("h")
    inner, controls = ca.reshape(v[: n * degree], n, degree), ca.reshape(v[n * degree :], m, degree)
    every = ca.horzcat(x, inner)
    results = [f(s + h * float(places[j]), inner[:, j], controls[:, j]) for j in range(degree)]
    rates, costs, below = (ca.horzcat(*column) for column in zip(*results, strict=True))
    defects = ca.mtimes(every, ca.DM(derivative)) - h * rates
    function = ca.Function(
        "stage",
        [x, v, s, h],
        [ca.mtimes(every, ca.DM(last)), ca.vertcat(ca.vec(defects), ca.vec(below)), h * ca.mtimes(costs, weights)],
    )
    return Stage(function, places, places, (n * degree, below.numel()))


class Solver:
    """A statement on a mesh of N equal intervals, built once, with the initial state as its parameter.

    `expand` makes one large SX function of all stages: slow to build and twice as fast to evaluate, so for solvers that
    are used again.
    """

    def __init__(
        self, statement: Statement, stage: Stage, N: int, plugin: str, *, warm: bool = False, expand: bool = False
    ) -> None:
        self.statement, self.stage, self.N = statement, stage, N
        free = isinstance(statement.horizon, FreeEnd)
        self.free, self.n, self.m = free, statement.states + free, statement.controls
        width = stage.function.size1_in(1)
        scale = np.array(statement.scales)
        w, last, p = ca.MX.sym("w", self.n + width, N), ca.MX.sym("last", self.n), ca.MX.sym("p", statement.states)
        x, v = w[: self.n, :], w[self.n :, :]
        starts = np.arange(N) / N
        ends, checks, costs = stage.function.map(N)(x, v, ca.DM(starts).T, 1.0 / N)
        gaps = ca.vertcat(ca.horzcat(x[:, 1:], last) - ends, checks)
        initial = x[: statement.states, 0] - p / scale
        fixed = [i for i, value in enumerate(statement.final) if value is not None]
        time_end = last[-1] if free else statement.horizon
        final_states = ca.vertsplit(last[: statement.states] * scale)
        below = ca.vertcat(*statement.below(ca, time_end, final_states)) if statement.below else ca.MX(0, 1)
        if stage.states.size and abs(stage.states[-1] - 1.0) < 1e-12:
            below = ca.MX(0, 1)  # the last collocation point is the end
        terminal = ca.vertcat(last[fixed], below) if fixed else below
        cost = ca.sum2(costs)
        if statement.terminal is not None:
            cost += statement.terminal(ca, final_states)
        self.size = max(1.0, abs(statement.cost)) if max(statement.scales) > 1.0 else 1.0
        nlp = {
            "x": ca.vertcat(ca.vec(w), last),
            "p": p,
            "f": cost / self.size,
            "g": ca.vertcat(gaps[:, 0], initial, ca.vec(gaps[:, 1:]), terminal),
        }
        equalities, inequalities = stage.checks
        block = [True] * (self.n + equalities) + [False] * inequalities
        end_values = [statement.final[i] / scale[i] for i in fixed]
        rest = terminal.numel() - len(fixed)
        equal = [*block, *[True] * statement.states, *block * (N - 1), *[True] * len(fixed), *[False] * rest]
        values = np.zeros(len(equal))
        values[len(equal) - rest - len(fixed) : len(equal) - rest] = end_values
        self.bounds = {"lbg": np.where(equal, values, -np.inf), "ubg": values}
        self.bounds["lbx"], self.bounds["ubx"] = self.variable_bounds(width)
        if plugin == "ipopt":
            options: dict[str, Any] = {**IPOPT, **(IPOPT_WARM if warm else {})}
        else:
            options = {**FATROP, **(FATROP_WARM if warm else {}), "equality": equal}
        options["expand"] = expand
        self.solver = ca.nlpsol("solver", plugin, nlp, options)
        self.starts = starts

    def variable_bounds(self, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Bounds of all variables: those of the controls and of a free final time."""
        both = []
        repeats = len(self.stage.places)
        for index in (0, 1):
            infinite = np.full(self.n, (-np.inf, np.inf)[index])
            controls = (self.statement.lower, self.statement.upper)[index]
            inner = np.full(width - repeats * self.m, (-np.inf, np.inf)[index])
            if isinstance(self.statement.horizon, FreeEnd):
                infinite[-1] = (self.statement.horizon.lower, self.statement.horizon.upper)[index]
            stage = np.concatenate((infinite, inner, np.tile(controls, repeats)))
            both.append(np.concatenate((np.tile(stage, self.N), infinite)))
        return both[0], both[1]

    def guess(self) -> np.ndarray:
        """First control and the states that belong to it."""
        statement, N = self.statement, self.N
        nodes = np.linspace(0.0, 1.0, N + 1)
        states = np.array(statement.first_states([float(t) for t in nodes * statement.first_horizon]))
        states = states / np.array(statement.scales)
        if self.free:
            states = np.column_stack((states, np.full(N + 1, statement.first_horizon)))
        rows = [states[:-1]]
        rows += [states[:-1] + place * np.diff(states, axis=0) for place in self.stage.states]
        rows += [np.tile(statement.first_control, (N, 1)) for _ in self.stage.places]
        return np.concatenate((np.column_stack(rows).ravel(), states[-1]))

    def solve(self, start: Sequence[float], before: dict[str, Any] | None = None) -> tuple[dict[str, Any], Answer]:
        """Solve from an initial state, from the first guess or from what was found before."""
        if before is None:
            result = self.solver(x0=self.guess(), p=start, **self.bounds)
        else:
            first = {"x0": before["x"], "lam_x0": before["lam_x"], "lam_g0": before["lam_g"]}
            result = self.solver(p=start, **first, **self.bounds)
        return result, self.answer(result)

    def answer(self, result: dict[str, Any]) -> Answer:
        """What the solver reports, and its variables for later."""
        stats = self.solver.stats()
        extra = {"iterations": int(stats.get("iter_count", -1))}
        cost, message = float(result["f"]) * self.size, str(stats["return_status"])
        return Answer(
            cost, lambda: self.control(np.array(result["x"]).ravel()), bool(stats["success"]), message, lambda: extra
        )

    def control(self, w: np.ndarray) -> Control:
        """The control among the variables, as the method means it."""
        rows, places = w[: len(w) - self.n].reshape(self.N, -1), self.stage.places
        horizon = float(w[-1]) if self.free else float(self.statement.horizon)  # type: ignore[arg-type]
        values = rows[:, -len(places) * self.m :].reshape(self.N, len(places), self.m)
        return Control(np.linspace(0.0, horizon, self.N + 1), [places] * self.N, list(values))


@dataclass(frozen=True)
class Casadi:
    """One transcription and one solver, as a peer of the benchmark."""

    name: str
    plugin: str
    scheme: str
    degree: int
    meshes: tuple[int, ...]
    tool: str = "CasADi"
    evidence: str = "KKT conditions of the discretized problem to 1e-9"

    def stage(self, statement: Statement) -> Stage:
        """The stage of this transcription."""
        if self.scheme == "rk4":
            return shooting(statement, self.degree)
        return collocation(statement, self.degree, self.scheme)

    def solve(self, statement: Statement, mesh: int) -> Answer:
        """From the statement to the answer."""
        return Solver(statement, self.stage(statement), mesh, self.plugin).solve(statement.start)[1]

    def prepare(self, statement: Statement, mesh: int) -> Callable[[], Answer]:
        """The second solve, from the other initial state, by prebuilt solvers: only it is left to do."""
        stage = self.stage(statement)
        first, second = (Solver(statement, stage, mesh, self.plugin, warm=warm, expand=True) for warm in (False, True))
        before, _ = first.solve(statement.start)
        return lambda: second.solve(statement.nearby, before)[1]


COARSE, FINE = tuple(5 * 2**k for k in range(10)), tuple(25 * 2**k for k in range(10))
PEERS: tuple[Casadi, ...] = (
    Casadi("IPOPT radau 3", "ipopt", "radau", 3, COARSE),
    Casadi("IPOPT legendre 3", "ipopt", "legendre", 3, COARSE),
    Casadi("IPOPT radau 5", "ipopt", "radau", 5, COARSE),
    Casadi("IPOPT RK4, constant", "ipopt", "rk4", 1, FINE),
    Casadi("IPOPT RK4, parabola", "ipopt", "rk4", 3, FINE),
    Casadi("fatrop RK4, constant", "fatrop", "rk4", 1, FINE),
    Casadi("fatrop RK4, parabola", "fatrop", "rk4", 3, FINE),
    Casadi("fatrop legendre 3", "fatrop", "legendre", 3, COARSE),
    Casadi("fatrop legendre 5", "fatrop", "legendre", 5, COARSE),
)
