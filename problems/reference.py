"""What a reference problem is: a problem, its minimized cost and what is known of its solution; it solves nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import ocsolver as oc

__all__ = ["Exact", "Reference", "TimeFunction", "columns", "initial_states", "mean_cost", "published"]

TimeFunction = Callable[[Any], Tensor]
"""From times (\\*T) to float64 values (\\*T, B, n), or (\\*T, G, m) for a control."""


@dataclass(frozen=True)
class Exact:
    """Exact solution as functions of time, each None where unknown.

    Every function takes times as a number, list, array or tensor of shape (\\*T) and returns float64, whatever the
    dtype of the problem.

    Parameters
    ----------
    control : callable, optional
        Optimal control, (\\*T) -> (\\*T, G, m).
    state : callable, optional
        Optimal state, (\\*T) -> (\\*T, B, n).
    costate : callable, optional
        Costate of each trajectory, (\\*T) -> (\\*T, B, n), for H = p·f − L maximized and p(t1) = −∇Φ.
    switches : tuple of float, default ()
        Times strictly inside the horizon where the control jumps, or where a path constraint begins or ceases to act:
        between them everything is smooth.
    final_time : float, optional
        Optimal t1 where it is free.
    terminal_multiplier : Tensor, shape (B, c), optional
        Multiplier ν of the terminal constraint: p(t1) = −∇Φ − (∂c/∂x)ᵀν; ν ≥ 0 at an upper side, ν ≤ 0 at a lower one.
    path_multiplier : callable, optional
        Multiplier μ of the path constraint, (\\*T) -> (\\*T, B, c): ṗ = −∇ₓH + (∂c/∂x)ᵀμ, signs as for ν. Where the
        constraint does not contain the control, p may also jump at the switches; μ is the density between them.
    """

    control: TimeFunction | None = None
    state: TimeFunction | None = None
    costate: TimeFunction | None = None
    switches: tuple[float, ...] = ()
    final_time: float | None = None
    terminal_multiplier: Tensor | None = None
    path_multiplier: TimeFunction | None = None


@dataclass(frozen=True, eq=False)
class Reference:
    """A problem with its known optimum.

    Parameters
    ----------
    name : str
        Descriptive name, such as ``'scalar-lqr'``.
    problem : OptimalControlProblem
        The problem, always a minimization.
    cost : float or None
        Minimized cost J* in continuous time: the negative of the published optimum for a maximization problem, the
        mean over the groups where there are several, the infimum where a tag says ``'no-minimizer'``, and None where
        the parameters leave what is known.
    exact : Exact or None
        Exact solution, if known.
    tags : frozenset of str
        Claims: ``'smooth'``, ``'bang-bang'``, ``'singular'``, ``'closed-form'``, ``'several-minima'``,
        ``'ensemble'``, ``'discrete'``, ``'no-minimizer'``, ``'maximization'``, ``'linear-quadratic'``,
        ``'large-states'``.
        Of constrained problems also: ``'terminal-constraint'``, ``'path-constraint'``, ``'free-time'``,
        ``'static-parameter'`` (a constant state with a free start), ``'non-smooth'`` (a running cost with a kink).
    source : str
        Where the statement comes from.
    id : str
        Short label, such as ``'A01'``.
    local_costs : tuple of float, default ()
        Costs of all known local minima, the global one first, where there are several.
    group_costs : tuple of float, default ()
        J* of every group, (G,); filled in from `cost` where there is one group.
    """

    name: str
    problem: oc.OptimalControlProblem
    cost: float | None
    exact: Exact | None
    tags: frozenset[str]
    source: str
    id: str
    local_costs: tuple[float, ...] = ()
    group_costs: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.cost is not None and not self.group_costs:
            object.__setattr__(self, "group_costs", (self.cost,))

    @property
    def horizon(self) -> tuple[float, float]:
        """Initial and optimal final time; where that is free and unknown, the guess."""
        t0, t1 = self.problem.horizon
        known = None if self.exact is None else self.exact.final_time
        return t0, t1 if known is None else known

    def __repr__(self) -> str:
        return f"Reference({self.id} {self.name}, cost={self.cost}, tags={sorted(self.tags)})"


def initial_states(value: Any, default: Any, dtype: torch.dtype) -> Tensor:
    """Initial states (B, n) of the wanted dtype: `value`, or `default` where it is None."""
    states = torch.as_tensor(default if value is None else value, dtype=dtype)
    return states[None] if states.ndim == 1 else states


def columns(t: Any) -> Tensor:
    """Times (*T) as float64 (*T, 1, 1), to broadcast against trajectories and components."""
    return torch.as_tensor(t, dtype=torch.float64)[..., None, None]


def mean_cost(costs: Tensor) -> float:
    """Mean of the costs (G,) of all groups."""
    return float(costs.mean())


def published(cost: float, *, unchanged: bool) -> float | None:
    """`cost` where the parameters are those it was published for, else None."""
    return cost if unchanged else None
