"""The rounds of the augmented Lagrangian: solve at given prices, judge the constraints, change the prices."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ocsolver._shapes import per_row
from ocsolver.arcs import with_arcs
from ocsolver.freetime import on_unit_time
from ocsolver.outcome import History, Stats
from ocsolver.pieces import Pieces, gauss
from ocsolver.problem import OptimalControlProblem
from ocsolver.solution import Solution
from ocsolver.solvers.base import Limits, Solver
from ocsolver.solvers.launch import Launch
from ocsolver.solvers.multipliers import Multipliers, Report
from ocsolver.status import Status
from ocsolver.transcription import Discretization, transcribe
from ocsolver.violations import measure_violations

__all__ = ["Rounds", "Rules"]

LOOSEST = 1e-3  # tolerance of the first round; each following one is ten times tighter
PROGRESS = 0.25  # factor by which a round must lower the defect of the constraints, or else the penalty grows
SLACK = 1e-4  # cost, relative to max(1, |J|), that prices on slack constraints may hide
FIRST = (10.0, 1e4)  # range of the first penalty
TIGHTER = 1e-3  # tolerance of the inner solver relative to that of the run: violations need more accuracy than J
REACH = (1e-2, 10.0)  # how far a free initial state may move in a round, relative to 1 + |x0|
LARGEST = 1e7  # penalty relative to the first
PATIENCE = 5  # rounds without progress after which the constraints are given up
LONGEST = 200  # iterations of a round: better prices help more than a better minimum at these
SHARES = 10  # rounds that share the iterations if there is no tolerance
FAILED = (Status.DIVERGED, Status.NONFINITE, Status.INTEGRATION_FAILED)
ENDED = (Status.STOPPED, Status.INTERRUPTED, Status.MAX_SECONDS)


class Rules(NamedTuple):
    """What the user chose."""

    solver: Solver
    feasibility: float
    growth: float
    rounds: int
    name: str


def _on_unit_time(control: Callable[[Tensor], Any], t0: float, t1: float) -> Callable[[Tensor], Any]:
    return lambda tau: control(t0 + (t1 - t0) * tau)


class Rounds:
    """One run: the trajectory, its prices and the status of every group."""

    def __init__(
        self,
        rules: Rules,
        problem: OptimalControlProblem,
        discretization: Discretization,
        start: Any,
        limits: Limits,
    ) -> None:
        self.begin = time.perf_counter()
        self.rules, self.problem, self.limits = rules, problem, limits
        self.unit = on_unit_time(problem)
        self.transcription = transcribe(self.unit, discretization)
        t = self.transcription
        self.discretization = Discretization(t.mesh, t.integrator, t.adjoint)
        self.x0, (self.u,) = self._start(start)
        self.reach = self._bounded_reach(torch.full_like(self.x0, torch.inf))
        t.check((self.u,))
        self.multipliers = Multipliers.start(self.unit, t.nodes, self.u)
        self.x, self.p = self._simulate(), torch.zeros(0)
        report = self.multipliers.judge(self.x, self.u)
        scale, missed = self._forward.scale, self._worst(report).clamp_min(1e-6)
        first = (20.0 * scale / missed.square()).clamp(*FIRST)
        self.multipliers = replace(self.multipliers, r=torch.where(torch.isfinite(first), first, FIRST[0]))
        self.largest = LARGEST * self.multipliers.r
        G = self.unit.groups
        self.defect, self.best = torch.full((2, G), torch.inf).to(scale)
        self.idle, self.residual = torch.zeros(G), torch.full((G,), torch.inf).to(scale)
        self.status, self.notes = [Status.RUNNING] * G, [""] * G
        self.solutions: list[Solution] = []

    def _start(self, start: Any) -> tuple[Tensor, Any]:
        """Initial states (B, n) and control of what the user gave; a Solution also tells free starts and times."""
        x0, t = self.unit.initial_state, self.transcription
        if self.problem.free_time is not None and callable(start) and not isinstance(start, Solution):
            start = _on_unit_time(start, *self.problem.horizon)
        if not isinstance(start, Solution) or start.x.shape[1:] != self.problem.initial_state.shape:
            return x0, t.start(start)
        if self.problem.free_time is None:
            control, guess = t.start(start), start.x[0].to(x0)
        else:
            span = start.t[-1] - start.t[0]  # (G,)
            middle = 0.5 * (t.nodes[1:] + t.nodes[:-1]).to(start.t)
            columns = [start.control(start.t[0, g] + span[g] * middle)[:, g] for g in range(span.numel())]
            control = t.start(torch.stack(columns, 1))
            guess = torch.cat((start.x[0], span[:, None].expand(start.x.shape[1], 1)), -1).to(x0)
        ends = self.unit.free_initial_state
        return x0 if ends is None else torch.clamp(guess, ends.lower, ends.upper), control

    # -------------------------------------------------------------- one round

    def _simulate(self) -> Tensor:
        """States (N + 1, B, n) of the present control, with J in `_forward`."""
        unit = self.unit
        plain = OptimalControlProblem(
            unit.dynamics,
            unit.running_cost,
            unit.terminal_cost,
            initial_state=self.x0,
            horizon=unit.horizon,
            control_set=unit.control_set,
            shared_control=unit.shared_control,
        )
        self._forward = transcribe(plain, self.discretization).forward((self.u,))
        x: Tensor = self._forward.x
        return x

    def _round(self, tolerance: float | None) -> Solution:
        """Solve the priced problem; groups that failed keep their control."""
        priced, discretization, start = self.multipliers.priced(), self.discretization, self.u
        free = priced.free_initial_state is not None
        if free:
            launch = Launch(priced, self.x0, self.reach, discretization.mesh)
            priced, start = launch.launched, launch.control(self.u)
            discretization = replace(discretization, mesh=launch.launched_mesh)
        limits = self.limits
        left = min(limits.max_iterations - self._iterations, LONGEST)
        if tolerance is None:
            left = min(left, -(-limits.max_iterations // SHARES))
        solution = self.rules.solver.run(
            priced,
            discretization,
            start,
            replace(limits.after(self._seconds), max_iterations=left, tolerance=tolerance),
        )
        self.solutions.append(solution)
        kept = torch.tensor([status not in FAILED for status in solution.status])
        m, x, u, p = self.u.shape[-1], solution.x, solution.u, solution.p
        if free:
            x, u, p = x[1:], u[1:, :, :m], p[1:]
        rows = per_row(kept, self.x0.shape[0])
        self.p = p if self.p.numel() == 0 else torch.where(rows[:, None], p, self.p)
        self.u = torch.where(kept[:, None], u, self.u)
        self.residual = torch.where(kept, solution.residual, self.residual)
        moved = torch.where(rows[:, None], x[0] - self.x0, self.reach)
        far = free & (moved.abs() >= 0.99 * self.reach).any(-1)  # (B,): these starts want to go on
        self.limited = far.any(0, keepdim=True) if self.unit.groups == 1 else far
        self.x0 = torch.where(rows[:, None], x[0], self.x0)
        self.reach = self._bounded_reach(10.0 * moved.abs())
        self.x = self._simulate() if not bool(kept.all()) else x
        return solution

    def _bounded_reach(self, wish: Tensor) -> Tensor:
        """How far free initial states may move in the next round (B, n); a duration at most by half."""
        size = 1.0 + self.x0.abs()
        reach = torch.minimum(torch.maximum(wish, REACH[0] * size), REACH[1] * size)
        if self.problem.free_time is not None:
            reach[:, -1] = torch.minimum(reach[:, -1], 0.5 * self.x0[:, -1])
        return reach

    def _worst(self, report: Report) -> Tensor:
        """Largest violation (G,)."""
        if self.unit.terminal_constraint is None and self.unit.path_constraint is None:
            return torch.zeros_like(report.slack)
        return report.worst.amax(0, keepdim=True) if self.unit.groups == 1 else report.worst

    # --------------------------------------------------------------- the loop

    def solve(self) -> Solution:
        """Rounds until every group has ended."""
        tolerance = self.limits.tolerance
        for k in range(self.rules.rounds):
            goal = None if tolerance is None else max(TIGHTER * tolerance, LOOSEST * 0.1**k)
            solution = self._round(goal)
            report = self.multipliers.judge(self.x, self.u)
            self._judge(solution, report, last=k == self.rules.rounds - 1)
            if Status.RUNNING not in self.status:
                break
            self._reprice(report, solution)
        return self._solution(report)

    def _judge(self, solution: Solution, report: Report, *, last: bool) -> None:
        worst, cost = self._worst(report), self._forward_cost()
        met = (worst <= self.rules.feasibility) & (report.slack <= SLACK * cost.abs().clamp_min(1.0))
        self.idle = torch.where((worst > 0.8 * self.best) & ~met & ~self.limited, self.idle + 1, 0)
        self.best = torch.minimum(self.best, worst)
        out = self._iterations >= self.limits.max_iterations
        for g, (own, note) in enumerate(zip(solution.status, solution.notes, strict=True)):
            if self.status[g] is not Status.RUNNING:
                continue
            hopeless = bool(self.idle[g] >= PATIENCE) or last
            if own in ENDED:
                self.status[g], self.notes[g] = own, note
            elif bool(met[g] & ~self.limited[g]) and bool(self.residual[g] <= (self.limits.tolerance or 0.0)):
                self.status[g] = Status.CONVERGED
            elif out:
                self.status[g] = Status.COMPLETED if self.limits.tolerance is None else Status.MAX_ITERATIONS
            elif own in FAILED and (hopeless or bool(self.multipliers.r[g] >= self.largest[g])):
                self.status[g], self.notes[g] = own, note
            elif hopeless or (bool(met[g]) and own is Status.STALLED):
                missed = not bool(worst[g] <= self.rules.feasibility)
                self.status[g] = Status.INFEASIBLE if missed else Status.STALLED
            if (
                self.status[g] < 0
                and self.status[g] is not Status.RUNNING
                and not bool(worst[g] <= self.rules.feasibility)
            ):
                why = self._violated(report, g)
                self.notes[g] = f"{self.notes[g]}; {why}" if self.notes[g] else why

    def _reprice(self, report: Report, solution: Solution) -> None:
        """Multipliers and penalties of the next round, in the groups that run."""
        failed = torch.tensor([status in FAILED for status in solution.status])
        running = torch.tensor([status is Status.RUNNING for status in self.status])
        old, new = self.multipliers, report.updated
        slow = failed | (report.defect > PROGRESS * self.defect)
        slow = slow & (report.defect > 0.1 * self.rules.feasibility) & ~self.limited
        r = torch.where(running & slow, torch.minimum(self.rules.growth * old.r, self.largest), old.r)
        rows = per_row(running & ~failed, self.x0.shape[0])[:, None]
        kept = {
            name: None if getattr(old, name) is None else torch.where(rows, getattr(new, name), getattr(old, name))
            for name in ("terminal", "path")
        }
        self.defect = torch.where(failed, self.defect, report.defect)
        self.multipliers = replace(old, r=r, terminal=kept["terminal"], path=kept["path"])

    @property
    def _iterations(self) -> int:
        return sum(solution.stats.iterations for solution in self.solutions)

    @property
    def _seconds(self) -> float:
        return time.perf_counter() - self.begin

    def _forward_cost(self) -> Tensor:
        self._simulate()
        cost: Tensor = self._forward.cost
        return cost

    # ----------------------------------------------------------------- result

    def _times(self) -> Tensor:
        """Nodes in the time of the problem (N + 1, G)."""
        nodes: Tensor = self.multipliers.nodes[:, None].expand(-1, self.unit.groups)
        if self.problem.free_time is not None:
            nodes = self.problem.horizon[0] + nodes * self.x[0, :, -1]
        return nodes

    def _violated(self, report: Report, group: int) -> str:
        """The worst violation in words."""
        rows = range(self.x0.shape[0]) if self.unit.groups == 1 else [group]
        found: list[tuple[float, str]] = []
        t = self._times()[:, group]
        points = torch.cat((t, 0.5 * (t[1:] + t[:-1]))).sort().values
        for name, values in (("terminal_constraint", report.terminal), ("path_constraint", report.path)):
            if values is None:
                continue
            mine = (values if values.ndim == 3 else values[None])[:, list(rows)]  # (P, R, c)
            place = int(mine.argmax())
            k, row, j = (
                place // (mine.shape[1] * mine.shape[2]),
                place // mine.shape[2] % mine.shape[1],
                place % mine.shape[2],
            )
            when = float(points[k] if values.ndim == 3 else t[-1])
            worst = float(mine.max())
            where = f"component {j} of trajectory {rows[row]}"
            found.append((worst, f"{name}, {where}, is violated by {worst:.3g} at t = {when:.6g}"))
        worst_text = max(found)[1] if found else ""
        return worst_text

    def _solution(self, report: Report) -> Solution:
        last, n = self.solutions[-1], self.problem.n
        parts = {
            field.name: torch.cat([getattr(solution.history, field.name) for solution in self.solutions])
            for field in fields(History)
        }
        sweeps: dict[str, int] = {}
        seconds: dict[str, float] = {}
        for solution in self.solutions:
            for total, part in ((sweeps, solution.stats.sweeps), (seconds, solution.stats.seconds)):
                for name, value in part.items():
                    total[name] = total.get(name, 0) + value  # type: ignore[assignment]
        seconds["total"] = self._seconds
        whole = self._whole_pieces()
        self.multipliers = report.updated  # the slope of the prices, as the costates saw it
        pieces, t, x = self._pieces(whole), self._times(), self.x[..., :n]
        solution = replace(
            last,
            t=t,
            x=x,
            p=self.p[..., :n],
            u=self.u,
            cost=self._forward_cost(),
            residual=self.residual,
            status=self.status,
            notes=self.notes,
            history=History(**parts),
            stats=Stats(self._iterations, sweeps, seconds),
            problem=self.problem,
            discretization=self.discretization,
            solver=self.rules.name,
            pieces=pieces,
            multipliers=self._shown(),
            violations=measure_violations(self.problem, t, x, pieces),
        )
        result: Solution = with_arcs(solution)
        return result

    def _shown(self) -> dict[str, Tensor]:
        shown = self.multipliers.means()
        if self.problem.free_time is not None and "path_constraint" in shown:
            shown["path_constraint"] = shown["path_constraint"] / self.x[0, :, -1:]
        return shown

    def _whole_pieces(self) -> Pieces:
        """Polynomials of the states and costates of the priced problem."""
        nodes = self.multipliers.nodes[:, None].expand(-1, self.unit.groups)
        return Pieces.from_steps(self.multipliers.priced(), nodes, self.x, self.p, self.u)

    def _pieces(self, whole: Pieces) -> Pieces:
        """Polynomials that tell states, costates and multipliers between the nodes, with the true start and time."""
        n, multipliers = self.problem.n, self.multipliers
        nodes = multipliers.nodes[:, None].expand(-1, self.unit.groups)
        inside = nodes[:-1, None] + nodes.diff(dim=0)[:, None] * gauss(whole.stages, self.x)[0][:, None]  # (N, s, G)
        prices = multipliers.at(inside[..., :1])
        if prices is not None and self.problem.free_time is not None:
            prices = prices / self.x[0, :, -1:]  # per unit of the time of the problem
        return Pieces(whole.control.contiguous(), whole.state[..., :n], whole.costate[..., :n], prices)
