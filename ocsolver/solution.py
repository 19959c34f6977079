"""What `solve` returns: trajectories, control, history and the means to question them; it knows no algorithm."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
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
from ocsolver.errors import UnsupportedError, complaint
from ocsolver.hamiltonian import hamiltonian
from ocsolver.kinks import cut_at_kinks
from ocsolver.lifted import lifted
from ocsolver.mesh import Mesh
from ocsolver.outcome import History, Outcome, Stats
from ocsolver.pieces import Pieces, checked_times, locate
from ocsolver.pieces_certificate import certify_pieces, gaps
from ocsolver.problem import OptimalControlProblem
from ocsolver.residual import maximum_gap
from ocsolver.transcription import Discretization, Sweep, transcribe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FORMATS", "History", "Outcome", "Solution", "Stats", "assemble"]

FORMATS = (1, 2)  # of saved files that can be read; the last is written
EVENTS, EVENT_LINES = 12, 5  # shown in a summary: per line, lines


@dataclass(frozen=True, eq=False)
class Solution(Outcome):
    """Result of `solve`.

    Attributes
    ----------
    t : Tensor, shape (N + 1, G)
        Nodes of the mesh; each group may have its own, and its own final time.
    x, p : Tensor, shape (N + 1, B, n)
        States and costates; p(t0) = −∂J/∂x0 per trajectory.
    u : Tensor, shape (N, G, m)
        Control on each interval: constant, or the mean of the polynomial if there are `pieces`.
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
    pieces : Pieces or None
        Control, state and costate as polynomials on each interval; None for a control that is constant there.
    multipliers : dict of str to Tensor
        Of ``"terminal_constraint"`` (G, c) and ``"path_constraint"`` (N, G, c), the latter per unit of time and as
        means over intervals; ≥ 0 at upper bounds, ≤ 0 at lower ones.
    violations : dict of str to Tensor
        Largest distance to the bounds of ``"terminal_constraint"`` and ``"path_constraint"``, each (G, c).
    switches : list of list of (float, int)
        Per group the times at which a component of the control jumps; empty if they were not looked for.
    singular : list of list of (float, float, int)
        Per group the intervals on which a component of the control has a vanishing switching function.
    minima : list of list of (float, int)
        Per group the distinct costs at which the starts of `MultiStart` ended, with the number of starts.
    memory : object
        What the solver remembers for a start from this solution; None if nothing, and after `load`.
    """

    t: Tensor
    x: Tensor
    p: Tensor
    u: Tensor
    cost: Tensor
    problem: OptimalControlProblem | None
    discretization: Discretization
    shared_control: bool
    pieces: Pieces | None = None
    multipliers: dict[str, Tensor] = field(default_factory=dict)
    violations: dict[str, Tensor] = field(default_factory=dict)
    switches: list[list[tuple[float, int]]] = field(default_factory=list)
    singular: list[list[tuple[float, float, int]]] = field(default_factory=list)
    minima: list[list[tuple[float, int]]] = field(default_factory=list)
    memory: Any = field(default=None, repr=False)

    def summary(self) -> str:
        """Status, cost, residual, effort and certificate as a printable text.

        Returns
        -------
        str
            Several lines.
        """
        G = len(self.status)
        cost = _range(self.cost, "10") + (f" ({G} groups)" if G > 1 else "")
        total = self.stats.seconds.get("total", float("nan"))
        rejected = int(self.history.rejections.max())
        lines = [
            self.message,
            f"cost J               {cost}",
            f"residual             {float(self.residual.max()):.3e}",
            f"iterations           {self.stats.iterations} ({rejected} rejected), {total:.3g} s",
            f"mesh                 {self.u.shape[0]} intervals, {self._method}",
        ]
        if self.problem is not None and self.problem.free_time is not None:
            lines.append(f"final time           {_range(self.t[-1], '10')}")
        lines += [
            f"{name.replace('_', ' '):20s} violated by at most {float(worst.max()):.3e}"
            for name, worst in self.violations.items()
        ]
        lines += _events("switches", self.switches, lambda time, j: f"u[{j}] at {time:.7g}")
        lines += _events("singular arcs", self.singular, lambda t0, t1, j: f"u[{j}] on [{t0:.5g}, {t1:.5g}]")
        lines += _events("minima", self.minima, lambda cost, count: f"{cost:.8g} ({count} starts)")
        if self.problem is not None and bool(torch.isfinite(self.cost).all()):
            lines.append(str(self.certificate))
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.summary()

    def __repr__(self) -> str:
        names = sorted({status.name for status in self.status})
        cost = self.cost.tolist() if self.cost.numel() < 5 else "…"
        return f"Solution({', '.join(names)}, cost={cost}, u={tuple(self.u.shape)})"

    @property
    def _method(self) -> str:
        stages = None if self.pieces is None else self.pieces.stages
        return repr(self.discretization.integrator) if stages is None else f"polynomials through {stages} Gauss points"

    # ------------------------------------------------------------ interpolation

    def _locate(self, t: Any) -> tuple[Tensor, Tensor]:
        """Intervals and fractions (T, G) of query times; one number counts as T = 1."""
        return locate(self.t, checked_times(self.t, as_tensor(t, what="t", like=self.t)))

    @cached_property
    def curves(self) -> Pieces:
        """The trajectory as polynomials: `pieces`, or cubic Hermite interpolation of a control that is constant."""
        if self.pieces is not None:
            return self.pieces
        made = Pieces.from_steps(self._required_problem("curves"), self.t, self.x, self.p, self.u)
        nu = self.multipliers.get("path_constraint")
        return made if nu is None else replace(made, path_multipliers=nu[:, None].expand(-1, made.stages, -1, -1))

    def control(self, t: Any) -> Tensor:
        """Control at any times.

        Parameters
        ----------
        t : array_like, shape (T,)
            Times inside the horizon; at a node the value to its right. Beyond its own final time a group keeps its
            last value.

        Returns
        -------
        Tensor, shape (T, G, m)
            Piecewise constant, or the polynomials of `pieces`, projected onto U where the problem is known.
        """
        k, sigma = self._locate(t)
        if self.pieces is None:
            return self.u[k, torch.arange(k.shape[1])]
        u = self.pieces.controls(k, sigma)
        return u if self.problem is None else self.problem.control_set.project(u)

    def state(self, t: Any) -> Tensor:
        """State at any times, by the polynomials of `pieces`, else by cubic Hermite interpolation.

        Parameters
        ----------
        t : array_like, shape (T,)
            Times inside the horizon.

        Returns
        -------
        Tensor, shape (T, B, n)
            At least fourth-order accurate inside intervals.
        """
        self._known("state")
        return self.curves.states(self.x, *self._locate(t))

    def costate(self, t: Any) -> Tensor:
        """Costate at any times, by the polynomials of `pieces`, else by cubic Hermite interpolation.

        Parameters
        ----------
        t : array_like, shape (T,)
            Times inside the horizon.

        Returns
        -------
        Tensor, shape (T, B, n)
            At least fourth-order accurate inside intervals.
        """
        self._known("costate")
        return self.curves.costates(self.p, *self._locate(t))

    # -------------------------------------------------------------- questioning

    def _known(self, what: str) -> None:
        """Refuse what needs the problem where that is missing."""
        if self.pieces is None:
            self._required_problem(what)

    def _required_problem(self, what: str) -> OptimalControlProblem:
        if self.problem is None:
            todo = "Use oc.load(path, problem=problem)."
            raise UnsupportedError(
                complaint(what, expected="a solution that knows its problem", got="problem=None", todo=todo)
            )
        return self.problem

    def _transcription(self, integrator: Any = None) -> tuple[ContinuousTranscription, Tensor]:
        """What simulates the returned control, and that control as it wants it."""
        d, problem = self.discretization, self._required_problem("evaluation anew")
        choice = d if integrator is None else Discretization(d.mesh, integrator)
        if self.pieces is None:
            return transcribe(problem, choice), self.u
        t, x, _, pieces = cut_at_kinks(problem.control_set, self.t, self.x, self.p, self.pieces)
        simple, control = lifted(problem, t, x[0], pieces)
        return transcribe(simple, replace(choice, mesh=Mesh.uniform(len(control)))), control

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
        transcription, control = self._transcription(integrator)
        with threads_for(transcription.problem, transcription.mesh):
            return transcription.forward((control,)).cost

    @property
    def _is_own(self) -> bool:
        """Whether the costates come with the solution, rather than from a sweep of its control."""
        return self.pieces is not None or bool(self.multipliers)

    @cached_property
    def _sweep(self) -> Sweep:
        transcription, control = self._transcription()
        return transcription.backward(transcription.forward((control,)))

    @cached_property
    def certificate(self) -> Certificate:
        """Certificate of the returned control, computed on first use."""
        if self._is_own:
            return certify_pieces(self._required_problem("certificate"), self)
        return certify_sweep(self._transcription()[0], self._sweep)

    @torch.no_grad()
    def hamiltonian(self) -> tuple[Tensor, Tensor]:
        """Hamiltonian along the trajectory and its gap to the maximum.

        Returns
        -------
        value : Tensor, shape (N, B)
            H at the midpoints of the intervals.
        gap : Tensor, shape (N, G)
            max_U H − H(u) of each interval: the mean over it, under constraints over the admissible controls.
        """
        problem = self._required_problem("hamiltonian")
        if self._is_own:
            middle = self.curves.samples(problem, self.t, self.x, self.p, self.x.new_full((1,), 0.5))
            return hamiltonian(problem, *middle[:4])[:, 0], gaps(problem, self)
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
            "format": FORMATS[-1],
            "status": [status.name for status in self.status],
            "notes": self.notes,
            "stats": asdict(self.stats),
            "integrator": repr(d.integrator),
            "adjoint": repr(d.adjoint),
            "solver": self.solver,
            "shared_control": self.shared_control,
            "switches": self.switches,
            "singular": self.singular,
            "minima": self.minima,
        }
        tensors = {name: getattr(self, name) for name in ("t", "x", "p", "u", "cost", "residual")}
        for prefix, entries in {
            "history": vars(self.history),
            "pieces": {} if self.pieces is None else vars(self.pieces),
            "multipliers": self.multipliers,
            "violations": self.violations,
        }.items():
            tensors |= {f"{prefix}_{name}": entry for name, entry in entries.items() if entry is not None}
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
        if d.mesh is not None:
            arrays["mesh"] = d.mesh.nodes.numpy()
        target = Path(path)
        target = target if target.suffix == ".npz" else target.with_name(target.name + ".npz")
        with target.open("wb") as file:
            np.savez(file, header=np.array(json.dumps(header)), **arrays)


def _range(values: Tensor, digits: str) -> str:
    """One number, or the smallest and the largest of several."""
    if values.numel() == 1:
        return f"{float(values):.{digits}g}"
    return f"{float(values.min()):.6g} … {float(values.max()):.6g}"


def _events(name: str, groups: list[list[Any]], show: Callable[..., str]) -> list[str]:
    """Lines that list what happened in each group, at most a few of them."""
    lines: list[str] = []
    for g, events in enumerate(groups):
        if events and len(lines) < EVENT_LINES:
            which = name if len(groups) == 1 else f"{name}, group {g}"
            more = f", … ({len(events)} in all)" if len(events) > EVENTS else ""
            lines.append(f"{which:20s} {', '.join(show(*event) for event in events[:EVENTS])}{more}")
    return lines


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
