"""The problem that polynomial controls make when every interval is stretched to length one; it knows no algorithm."""

from __future__ import annotations

import torch
from torch import Tensor

from ocsolver.hamiltonian import dynamics, running_cost
from ocsolver.pieces import Pieces, gauss
from ocsolver.problem import OptimalControlProblem
from ocsolver.sets import Unconstrained

__all__ = ["lifted"]

PLACE = 3  # components of a lifted control before the polynomials: number k, start t_k and length h_k of the interval


def lifted(
    problem: OptimalControlProblem, t: Tensor, start: Tensor, pieces: Pieces, *, priced: bool = False
) -> tuple[OptimalControlProblem, Tensor]:
    """The problem that a polynomial control makes, in the variable σ ∈ (0, N) in which all intervals have length one.

    dx/dσ = h_k f(t_k + h_k (σ − k), x, P_U(polynomial of interval k)), the running cost likewise. States, costates and
    J are those of the original. Its control is constant on intervals: number k, start t_k, length h_k and coefficients
    of the polynomials. So every integrator and adjoint serves polynomials on meshes of each group's own.

    Parameters
    ----------
    problem : OptimalControlProblem
        The original; its constraints are left out, and what is free is fixed.
    t : Tensor, shape (N + 1, G)
        Nodes.
    start : Tensor, shape (B, n)
        Initial states.
    pieces : Pieces
        The control.
    priced : bool, default False
        Add ν·c to the running cost: the costate equation is then the one with path multipliers.

    Returns
    -------
    problem : OptimalControlProblem
        On the horizon (0, N); its mesh is uniform with N intervals.
    control : Tensor, shape (N, G, 3 + s m), or (N, R, 3 + s m + s c) if priced, with R rows of multipliers
        What `controls` and integrators take as control.
    """
    N, s, G, m = pieces.control.shape
    number = torch.arange(N, dtype=t.dtype, device=t.device)[:, None].expand(N, G)
    parts = [torch.stack((number, t[:-1], t.diff(dim=0)), -1), _coefficients(pieces.control)]
    path = problem.path_constraint if priced and pieces.path_multipliers is not None else None
    if path is not None:
        assert pieces.path_multipliers is not None
        parts.append(_coefficients(pieces.path_multipliers))
    rows = max(part.shape[1] for part in parts)
    control = torch.cat([part.expand(-1, rows, -1) for part in parts], -1)

    def place(sigma: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Time, length of the interval, control, multipliers."""
        fraction = sigma - v[..., 0]
        u = problem.control_set.project(_evaluated(v[..., PLACE : PLACE + s * m], s, fraction))
        nu = _evaluated(v[..., PLACE + s * m :], s, fraction)
        return v[..., 1] + v[..., 2] * fraction, v[..., 2], u, nu

    def rate(sigma: Tensor, x: Tensor, v: Tensor) -> Tensor:
        time, h, u, _ = place(sigma, v)
        return h[..., None] * dynamics(problem, time, x, u)

    def price(sigma: Tensor, x: Tensor, v: Tensor) -> Tensor:
        time, h, u, nu = place(sigma, v)
        cost = running_cost(problem, time, x, u)
        return h * (cost if path is None else cost + (nu * path.path(time, x, u)).sum(-1))

    free = problem.running_cost is None and path is None
    simple = OptimalControlProblem(
        rate,
        None if free else price,
        problem.terminal_cost,
        initial_state=start,
        horizon=(0.0, float(N)),
        control_set=Unconstrained(control.shape[-1]),
        shared_control=problem.shared_control,
    )
    return simple, control


def _coefficients(values: Tensor) -> Tensor:
    """Coefficients, lowest first, of the polynomials through values at Gauss points: (N, s, R, d) -> (N, R, s d)."""
    s = values.shape[1]
    powers = torch.linalg.vander(gauss(s, values)[0], N=s) if s > 1 else values.new_ones(1, 1)  # (s, s)
    coefficients: Tensor = torch.linalg.solve(powers, values.flatten(2)).reshape(values.shape)
    return coefficients.movedim(1, 2).flatten(2)


def _evaluated(coefficients: Tensor, s: int, sigma: Tensor) -> Tensor:
    """Polynomials at σ (*b, R) by Horner's rule: (*b, R, s d) -> (*b, R, d)."""
    *lower, value = coefficients.reshape(*coefficients.shape[:-1], s, coefficients.shape[-1] // s).unbind(-2)
    for coefficient in reversed(lower):
        value = coefficient + sigma[..., None] * value
    return value
