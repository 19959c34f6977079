"""What `solve` returns: trajectories, control, history and the means to question them; it knows no algorithm."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property, singledispatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ocsolver._shapes import as_tensor, group_mean
from ocsolver._threads import threads_for
from ocsolver.certificate import Certificate, certify_sweep
from ocsolver.continuous import ContinuousTranscription
from ocsolver.errors import InputError, UnsupportedError, complaint
from ocsolver.hamiltonian import costate_rate, dynamics, hamiltonian
from ocsolver.problem import OptimalControlProblem
from ocsolver.residual import maximum_gap
from ocsolver.status import Status
from ocsolver.transcription import Discretization, Sweep, transcribe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FORMAT", "History", "Outcome", "Solution", "Stats", "assemble"]

FORMAT = 1  # of saved files


@dataclass(frozen=True, eq=False)
class History:
    """Course of a run, each (iterations + 1, G); entry 0 belongs to the initial control.

    Attributes
    ----------
    cost, residual : Tensor
        J and the maximum-principle residual of the control kept after each iteration.
    hamiltonian_gain, state_error, costate_error : Tensor
        ∫ΔH, ∫‖Δf‖² and ∫‖Δ∇ₓH‖² of the step that was tried (Lemma 1); NaN at entry 0.
    constant : Tensor
        Lemma 1's constant as estimated from that step.
    rho : Tensor
        Penalty of that step.
    accepted : Tensor of bool
        Whether the step was taken; True also after a group has ended.
    """

    cost: Tensor
    residual: Tensor
    hamiltonian_gain: Tensor
    state_error: Tensor
    costate_error: Tensor
    constant: Tensor
    rho: Tensor
    accepted: Tensor

    @property
    def rejections(self) -> Tensor:
        """Number of rejected steps (G,)."""
        return (~self.accepted).sum(0)


@dataclass(frozen=True)
class Stats:
    """What a run cost.

    Attributes
    ----------
    iterations : int
        Iterations of the loop.
    sweeps : dict
        Number of calls by part: forward, backward, maximize, residual.
    seconds : dict
        Wall time by the same parts, and in total.
    """

    iterations: int
    sweeps: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a run knows besides its last sweep, and what that says: the part that all solutions share."""

    residual: Tensor  # (G,)
    status: list[Status]  # one per group
    notes: list[str]
    history: History
    stats: Stats
    solver: str

    @property
    def success(self) -> Tensor:
        """Whether each group ended with a status ≥ 0: bool (G,)."""
        return torch.tensor([status >= 0 for status in self.status])

    @property
    def message(self) -> str:
        """What happened and what to try, in one text."""
        groups: dict[tuple[Status, str], list[int]] = {}
        for g, (status, note) in enumerate(zip(self.status, self.notes, strict=True)):
            groups.setdefault((status, note), []).append(g)
        parts = []
        for (status, note), members in groups.items():
            where = "" if len(groups) == 1 else f"groups {_ranges(members)}: "
            parts.append(f"{where}{status.name}: {note + '; ' if note else ''}{status.advice}")
        return "\n".join(parts)


@dataclass(frozen=True, eq=False)
class Solution(Outcome):
    """Result of `solve`.

    Attributes
    ----------
    t : Tensor, shape (N + 1, G)
        Nodes of the mesh.
    x, p : Tensor, shape (N + 1, B, n)
        States and costates; p(t0) = −∂J/∂x0 per trajectory.
    u : Tensor, shape (N, G, m)
        Control, constant on each interval.
    cost, residual : Tensor, shape (G,)
        J (mean over the group) and the maximum-principle residual.
    status : list of Status
        One per group.
    notes : list of str
        What else is known of each group, e.g. which function failed where.
    history : History
        Course of the run.
    stats : Stats
        Iterations, sweeps, seconds.
    problem : OptimalControlProblem or None
        None after `load` without a problem; then only stored data are available.
    discretization : Discretization
        Mesh, integrator and adjoint that were used.
    solver : str
        The solver, as it prints itself.
    shared_control : bool
        Whether all trajectories share one control (G = 1).
    """

    t: Tensor
    x: Tensor
    p: Tensor
    u: Tensor
    cost: Tensor
    problem: OptimalControlProblem | None
    discretization: Discretization
    shared_control: bool

    def summary(self) -> str:
        """Status, cost, residual, effort and certificate as a printable text.

        Returns
        -------
        str
            Several lines.
        """
        G = len(self.status)
        cost = (
            f"{float(self.cost[0]):.10g}"
            if G == 1
            else f"{float(self.cost.min()):.6g} … {float(self.cost.max()):.6g} ({G} groups)"
        )
        total = self.stats.seconds.get("total", float("nan"))
        rejected = int(self.history.rejections.max())
        lines = [
            self.message,
            f"cost J               {cost}",
            f"residual             {float(self.residual.max()):.3e}",
            f"iterations           {self.stats.iterations} ({rejected} rejected), {total:.3g} s",
            f"mesh                 {self.u.shape[0]} intervals, {self.discretization.integrator!r}",
        ]
        if self.problem is not None and bool(torch.isfinite(self.cost).all()):
            lines.append(str(self.certificate))
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.summary()

    def __repr__(self) -> str:
        names = sorted({status.name for status in self.status})
        cost = self.cost.tolist() if self.cost.numel() < 5 else "…"
        return f"Solution({', '.join(names)}, cost={cost}, u={tuple(self.u.shape)})"

    # ------------------------------------------------------------ interpolation

    def _locate(self, t: Any) -> tuple[Tensor, Tensor]:
        """Interval index (T,) and time (T,) of query times; one number counts as T = 1."""
        times = as_tensor(t, what="t", like=self.t)
        times = times[None] if times.ndim == 0 else times
        nodes = self.t[:, 0]
        slack = 1e-9 * (nodes[-1] - nodes[0])
        if times.ndim != 1 or bool(
            ((times < nodes[0] - slack) | (times > nodes[-1] + slack) | torch.isnan(times)).any()
        ):
            todo = "Pass times inside the horizon."
            expected = f"times (T,) in [{float(nodes[0]):g}, {float(nodes[-1]):g}]"
            got = f"shape {tuple(times.shape)}, range [{float(times.min()):g}, {float(times.max()):g}]"
            raise InputError(complaint("t", expected=expected, got=got, todo=todo))
        index = torch.searchsorted(nodes.contiguous(), times.contiguous(), right=True) - 1
        return index.clamp(0, nodes.numel() - 2), times

    def control(self, t: Any) -> Tensor:
        """Control at any times.

        Parameters
        ----------
        t : array_like, shape (T,)
            Times inside the horizon; at a node the value to its right.

        Returns
        -------
        Tensor, shape (T, G, m)
            Piecewise constant.
        """
        index, _ = self._locate(t)
        return self.u[index]

    def state(self, t: Any) -> Tensor:
        """State at any times, by cubic Hermite interpolation.

        Parameters
        ----------
        t : array_like, shape (T,)
            Times inside the horizon.

        Returns
        -------
        Tensor, shape (T, B, n)
            Fourth-order accurate inside intervals.
        """
        problem = self._required_problem("state")
        return self._hermite(t, self.x, lambda s, k, end: dynamics(problem, s, self.x[k + end], self.u[k]))

    def costate(self, t: Any) -> Tensor:
        """Costate at any times, by cubic Hermite interpolation.

        Parameters
        ----------
        t : array_like, shape (T,)
            Times inside the horizon.

        Returns
        -------
        Tensor, shape (T, B, n)
            Fourth-order accurate inside intervals.
        """
        problem = self._required_problem("costate")
        return self._hermite(
            t, self.p, lambda s, k, end: costate_rate(problem, s, self.x[k + end], self.p[k + end], self.u[k])
        )

    @torch.no_grad()
    def _hermite(self, t: Any, values: Tensor, rate: Any) -> Tensor:
        k, times = self._locate(t)
        left, right = self.t[k, :1], self.t[k + 1, :1]
        h = (right - left)[..., None]
        s = ((times[:, None] - left) / (right - left))[..., None]  # (T, 1, 1)
        y0, y1 = values[k], values[k + 1]
        d0, d1 = h * rate(left, k, 0), h * rate(right, k, 1)
        result: Tensor = (
            (1 + 2 * s) * (1 - s) ** 2 * y0 + s * (1 - s) ** 2 * d0 + s**2 * (3 - 2 * s) * y1 + s**2 * (s - 1) * d1
        )
        return result

    # -------------------------------------------------------------- questioning

    def _required_problem(self, what: str) -> OptimalControlProblem:
        if self.problem is None:
            todo = "Use oc.load(path, problem=problem)."
            raise UnsupportedError(
                complaint(what, expected="a solution that knows its problem", got="problem=None", todo=todo)
            )
        return self.problem

    def _transcription(self, integrator: Any = None) -> Any:
        d = self.discretization
        if integrator is None:
            integrator, adjoint = d.integrator, d.adjoint
        else:
            adjoint = None
        return transcribe(self._required_problem("evaluation anew"), Discretization(d.mesh, integrator, adjoint))

    @torch.no_grad()
    def resimulate(self, integrator: Any) -> Tensor:
        """Cost of the returned control under another integrator.

        Parameters
        ----------
        integrator : Integrator
            For example ``oc.SolveIVP("DOP853", rtol=1e-10, atol=1e-10)``.

        Returns
        -------
        Tensor, shape (G,)
            J; inf where the simulation fails.
        """
        transcription = self._transcription(integrator)
        with threads_for(transcription.problem, transcription.mesh):
            cost: Tensor = transcription.forward((self.u,)).cost
        return cost

    @cached_property
    def _sweep(self) -> Sweep:
        transcription = self._transcription()
        sweep: Sweep = transcription.backward(transcription.forward((self.u,)))
        return sweep

    @cached_property
    def certificate(self) -> Certificate:
        """Certificate of the returned control, computed on first use."""
        return certify_sweep(self._transcription(), self._sweep)

    @torch.no_grad()
    def hamiltonian(self) -> tuple[Tensor, Tensor]:
        """Hamiltonian along the trajectory and its gap to the maximum.

        Returns
        -------
        value : Tensor, shape (N, B)
            H at the midpoints of the intervals.
        gap : Tensor, shape (N, G)
            max_U H − H(u) of each interval.
        """
        problem = self._required_problem("hamiltonian")
        t = 0.5 * (self.t[1:, :1] + self.t[:-1, :1])
        value = hamiltonian(problem, t, 0.5 * (self.x[1:] + self.x[:-1]), 0.5 * (self.p[1:] + self.p[:-1]), self.u)
        gap = maximum_gap(self._sweep.blocks[0])
        failed = group_mean(value, gap.shape[1]).isnan()
        return value, torch.where(failed, torch.nan, gap)

    def plot(self, trajectory: int = 0) -> Figure:
        """Draw states, control with bounds, costates, Hamiltonian with its gap, and convergence.

        Parameters
        ----------
        trajectory : int, default 0
            Which trajectory to draw.

        Returns
        -------
        matplotlib.figure.Figure
            Not shown; save it by ``figure.savefig(path)``.
        """
        from ocsolver.plotting import plot_solution

        return plot_solution(self, trajectory)

    # ------------------------------------------------------------------ storage

    def save(self, path: str | Path) -> None:
        """Write arrays and a JSON header to an npz file; no pickle.

        Parameters
        ----------
        path : path-like
            File name; ``.npz`` is appended if missing.
        """
        d = self.discretization
        header = {
            "format": FORMAT,
            "status": [status.name for status in self.status],
            "notes": self.notes,
            "stats": asdict(self.stats),
            "integrator": repr(d.integrator),
            "adjoint": repr(d.adjoint),
            "solver": self.solver,
            "shared_control": self.shared_control,
        }
        arrays = {name: getattr(self, name).detach().cpu().numpy() for name in ("t", "x", "p", "u", "cost", "residual")}
        arrays |= {f"history_{f.name}": getattr(self.history, f.name).detach().cpu().numpy() for f in fields(History)}
        arrays["mesh"] = d.mesh.nodes.numpy()
        target = Path(path)
        target = target if target.suffix == ".npz" else target.with_name(target.name + ".npz")
        with target.open("wb") as file:
            np.savez(file, header=np.array(json.dumps(header)), **arrays)


def _ranges(members: list[int]) -> str:
    shown = ", ".join(str(g) for g in members[:10])
    return shown if len(members) <= 10 else f"{shown}, … ({len(members)} in all)"


@singledispatch
def assemble(transcription: Any, sweep: Sweep, outcome: Outcome) -> Any:
    """Solution of a run from its last sweep; each kind of transcription registers its own."""
    raise NotImplementedError(type(transcription).__name__)


@assemble.register
def _(transcription: ContinuousTranscription, sweep: Sweep, outcome: Outcome) -> Solution:
    forward = sweep.forward
    return Solution(
        t=transcription.nodes[:, None].expand(-1, transcription.groups),
        x=forward.x,
        p=sweep.p,
        u=forward.u,
        cost=forward.cost,
        problem=transcription.problem,
        discretization=Discretization(transcription.mesh, transcription.integrator, transcription.adjoint),
        shared_control=transcription.problem.shared_control,
        **vars(outcome),
    )
