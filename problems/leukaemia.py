"""Acute myeloid leukaemia with a quadratic cost (A28); statement, optimum and nothing about solving it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import ocsolver as oc
from problems.reference import Reference, initial_states, published

__all__ = ["build"]


def build(
    *,
    horizon: float = 10.0,
    t0: float = 0.0,
    initial_state: Any = None,
    dtype: torch.dtype = torch.float64,
) -> Reference:
    """Chemotherapy of acute myeloid leukaemia.

    Minimize J = ∫(u² + 2L²) dt subject to Ṡ = ps S(1 − S) − gs S, Ȧ = gs S + pa A(1 − A − L) − ga A,
    L̇ = pl L(1 − A − L) − gl L − αL/(γ + L) − uL with ps = 0.5, pa = 0.43, pl = 0.27, gs = 0.14, ga = 0.44, gl = 0.05,
    α = 0.015, γ = 0.1, (S, A, L)(t0) = (0.72, 0.3255, 0.3715), u free, T = 10. J* = 0.8889013142 with
    x(t1) = (0.72, 0.421781, 0.096964). The published forward-backward sweeps relax by 0.45.

    Parameters
    ----------
    horizon : float, default 10.0
        Length T of the time interval.
    t0 : float, default 0.0
        Initial time.
    initial_state : array_like, shape (3,) or (B, 3), optional
        One or several initial states; default (0.72, 0.3255, 0.3715).
    dtype : torch.dtype, default torch.float64
        Floating-point type of the problem.

    Returns
    -------
    Reference
        The problem with its minimized cost and all that is known of the optimum.

    References
    ----------
    .. [1] Jesse-Sharp/Sharp2021, AML_continuous.
    """

    def dynamics(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        stem, healthy, leukaemic = x.unbind(-1)
        room = 1.0 - healthy - leukaemic
        return torch.stack(
            (
                stem * (0.36 - 0.5 * stem),
                0.14 * stem + healthy * (0.43 * room - 0.44),
                leukaemic * (0.27 * room - 0.05 - 0.015 / (0.1 + leukaemic) - u[..., 0]),
            ),
            -1,
        )

    def running_cost(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return u[..., 0].square() + 2.0 * x[..., 2].square()

    return Reference(
        name="leukaemia",
        problem=oc.OptimalControlProblem(
            dynamics,
            running_cost,
            initial_state=initial_states(initial_state, [1.0 - 0.14 / 0.5, 0.3255, 0.3715], dtype),
            horizon=(t0, t0 + horizon),
            control_set=oc.Unconstrained(1),
        ),
        cost=published(0.8889013142, unchanged=initial_state is None and horizon == 10.0),
        exact=None,
        tags=frozenset({"smooth"}),
        source="Jesse-Sharp/Sharp2021, AML_continuous",
        id="A28",
    )
