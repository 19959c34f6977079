"""Dymos: Radau collocation in OpenMDAO with SciPy's SLSQP, the optimizer that comes without a compiler or a license."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

os.environ.setdefault("OPENMDAO_REPORTS", "0")

import dymos
import openmdao.api as om

from scripts._peers_resimulate import Answer, Control
from scripts._peers_statements import FreeEnd, Statement

__all__ = ["PEERS", "Dymos"]

ORDER = 5


class Rates(om.ExplicitComponent):  # type: ignore[misc]
    """Derivatives, running cost and constraints of a statement at all nodes; partials by complex steps."""

    def initialize(self) -> None:
        """Declare what dymos and we hand over."""
        self.options.declare("num_nodes", types=int)
        self.options.declare("statement")

    def setup(self) -> None:
        """Inputs, outputs and the diagonal pattern of the partials."""
        statement, nodes = self.options["statement"], self.options["num_nodes"]
        self.names = ["t", *(f"x{i}" for i in range(statement.states)), *(f"u{i}" for i in range(len(statement.lower)))]
        checks = len(statement.below(np, 0.0, np.ones(statement.states))) if statement.below else 0
        outputs = [*(f"r{i}" for i in range(statement.states)), "rate", *(f"c{i}" for i in range(checks))]
        for name in self.names:
            self.add_input(name, np.ones(nodes))
        for name in outputs:
            self.add_output(name, np.ones(nodes))
        self.results = outputs
        rows = np.arange(nodes)
        self.declare_partials("*", "*", rows=rows, cols=rows)

    def values(self, inputs: dict[str, Any]) -> list[Any]:
        """All outputs."""
        statement = self.options["statement"]
        t, *rest = (inputs[name] for name in self.names)
        x, u = rest[: statement.states], rest[statement.states :]
        running = statement.running(np, t, x, u) if statement.running else 0.0
        return [*statement.dynamics(np, t, x, u), running, *(statement.below(np, t, x) if statement.below else ())]

    def compute(self, inputs: Any, outputs: Any) -> None:
        """Outputs at all nodes."""
        for name, value in zip(self.results, self.values({name: inputs[name] for name in self.names}), strict=True):
            outputs[name] = value

    def compute_partials(self, inputs: Any, partials: Any) -> None:
        """One complex step per input, all nodes at once."""
        point = {name: np.asarray(inputs[name], complex) for name in self.names}
        for name in self.names:
            moved = {**point, name: point[name] + 1e-30j}
            for result, value in zip(self.results, self.values(moved), strict=True):
                partials[result, name] = np.imag(value) * 1e30


def build(statement: Statement, segments: int, start: Sequence[float]) -> tuple[Any, Any]:
    """The statement as a problem with one phase, set up, and that phase."""
    problem, free = om.Problem(reports=False), statement.horizon
    problem.driver = om.ScipyOptimizeDriver(optimizer="SLSQP", tol=1e-10, maxiter=1000, disp=False)
    problem.driver.declare_coloring(show_summary=False, show_sparsity=False)
    problem.driver.options["debug_print"] = []
    phase = dymos.Phase(
        ode_class=Rates,
        ode_init_kwargs={"statement": statement},
        transcription=dymos.Radau(num_segments=segments, order=ORDER, compressed=True),
    )
    trajectory = dymos.Trajectory()
    trajectory.add_phase("phase", phase)
    problem.model.add_subsystem("trajectory", trajectory)
    if isinstance(free, FreeEnd):
        phase.set_time_options(fix_initial=True, duration_bounds=(free.lower, free.upper), targets=["t"])
    else:
        phase.set_time_options(fix_initial=True, fix_duration=True, targets=["t"])
    for i, (value, size) in enumerate(zip(statement.final, statement.scales, strict=True)):
        phase.add_state(f"x{i}", rate_source=f"r{i}", targets=[f"x{i}"], fix_initial=True, ref=size, defect_ref=size)
        if value is not None:
            phase.add_boundary_constraint(f"x{i}", loc="final", equals=value, ref=size)
    phase.add_state("cost", rate_source="rate", fix_initial=True)
    for i, (low, high) in enumerate(zip(statement.lower, statement.upper, strict=True)):
        sides = {"lower": low, "upper": high} if np.isfinite(low) and np.isfinite(high) else {}
        phase.add_control(f"u{i}", targets=[f"u{i}"], continuity=False, rate_continuity=False, **sides)
    if statement.below:
        phase.add_path_constraint("c0", upper=0.0)
    if statement.terminal:
        states = [f"x{i}" for i in range(statement.states)]
        index = next(i for i in range(statement.states) if depends(statement, i))
        phase.add_objective(states[index], loc="final", scaler=terminal_factor(statement, index))
    else:
        phase.add_objective(
            "cost", loc="final", ref=max(1.0, abs(statement.cost)) if max(statement.scales) > 1 else 1.0
        )
    if statement.terminal and statement.running:
        raise NotImplementedError("A cost at the end and one on the way together are not written for this front end.")
    problem.setup(force_alloc_complex=False)
    horizon = statement.first_horizon
    fine = np.linspace(0.0, horizon, 201)
    rows = np.array(statement.first_states(fine.tolist()))
    phase.set_time_val(initial=0.0, duration=horizon)
    for i, row in enumerate(rows.T):
        row = row.copy()
        row[0] = start[i]
        phase.set_state_val(f"x{i}", vals=row, time_vals=fine)
    phase.set_state_val("cost", vals=[0.0, max(0.1, abs(statement.cost))])
    for i, value in enumerate(statement.first_control):
        phase.set_control_val(f"u{i}", [value, value])
    return problem, phase


def depends(statement: Statement, index: int) -> bool:
    """Whether the cost at the end is a multiple of this state."""
    return terminal_factor(statement, index) != 0.0


def terminal_factor(statement: Statement, index: int) -> float:
    """Derivative of the cost at the end, which is linear in all statements here."""
    assert statement.terminal is not None
    zero, one = [0.0] * statement.states, [float(i == index) for i in range(statement.states)]
    return float(statement.terminal(np, one)) - float(statement.terminal(np, zero))


@dataclass(frozen=True)
class Dymos:
    """Radau segments of order 5."""

    name: str = "Dymos radau 5"
    meshes: tuple[int, ...] = (5, 10, 20, 40, 80)
    tool: str = "Dymos"
    evidence: str = "the exit flag of the optimizer; simulate() on request"

    def solve(self, statement: Statement, mesh: int) -> Answer:
        """From the statement to the answer."""
        problem, phase = build(statement, mesh, statement.start)
        return self.run(problem, phase, statement, mesh)

    def prepare(self, statement: Statement, mesh: int) -> Callable[[], Answer]:
        """The problem that is set up and solved, with another initial value in its states."""
        problem, phase = build(statement, mesh, statement.start)
        self.run(problem, phase, statement, mesh)

        def again() -> Answer:
            for i, value in enumerate(statement.nearby):
                name = f"trajectory.phase.states:x{i}"
                states = problem.get_val(name).copy()
                states[0] = value
                problem.set_val(name, states)
            return self.run(problem, phase, statement, mesh)

        return again

    def run(self, problem: Any, phase: Any, statement: Statement, mesh: int) -> Answer:
        """Optimize, in a folder of its own for what OpenMDAO writes."""
        here = os.getcwd()
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            try:
                dymos.run_problem(problem, run_driver=True, simulate=False, make_plots=False)
            finally:
                os.chdir(here)
        result = problem.driver.result
        times = problem.get_val("trajectory.phase.timeseries.time")[:, 0]
        controls = [problem.get_val(f"trajectory.phase.timeseries.u{i}")[:, 0] for i in range(len(statement.lower))]
        if statement.terminal:
            final = [problem.get_val(f"trajectory.phase.timeseries.x{i}")[-1, 0] for i in range(statement.states)]
            cost = float(statement.terminal(np, final))
        else:
            cost = float(problem.get_val("trajectory.phase.timeseries.cost")[-1, 0])

        def control() -> Control:
            nodes = times.reshape(mesh, -1)
            values = np.array(controls).T.reshape(mesh, nodes.shape[1], -1)
            breaks = np.append(nodes[:, 0], nodes[-1, -1])
            places = (nodes - breaks[:-1, None]) / np.diff(breaks)[:, None]
            return Control(breaks, list(places), list(values))

        return Answer(cost, control, bool(result.success), str(result.exit_status))


PEERS: tuple[Dymos, ...] = (Dymos(),)
