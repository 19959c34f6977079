"""Soft landing on the moon with least fuel (B17); statement, optimum and nothing about solving it."""

from __future__ import annotations

import math
from typing import Any

import torch
from scipy.optimize import brentq
from torch import Tensor

import ocsolver as oc
from problems.reference import Exact, Reference, columns

__all__ = ["build"]

EXHAUST = 2.349  # speed of the exhaust, c
THRUST = 1.227  # largest thrust, U


def build(
    *,
    height: float = 1.0,
    speed: float = -0.783,
    t0: float = 0.0,
    dtype: torch.dtype = torch.float64,
) -> Reference:
    """Soft landing on the moon with least fuel.

    Minimize J = ∫u dt subject to ḣ = v, v̇ = −1 + u/m, ṁ = −u/c, (h, v, m)(t0) = (1, −0.783, 1), h = v = 0 at the free
    end, 0 ≤ u ≤ U, c = 2.349, U = 1.227. The lander falls freely and then brakes fully until it touches down, for the
    time β: with k = U/c and the mass w = 1 − kτ after τ of braking, v = v₁ − τ − c ln w and
    h = h₁ + v₁τ − ½τ² + (c/k)(w ln w − w + 1). Two equations at the end give β and the time of ignition; J* = Uβ.
    The costates follow from H = 0 and from the switching function, whose rate is −ph/m.

    Parameters
    ----------
    height : float, default 1.0
        Initial height, positive.
    speed : float, default -0.783
        Initial velocity, upwards positive.
    t0 : float, default 0.0
        Initial time.
    dtype : torch.dtype, default torch.float64
        Floating-point type of the problem.

    Returns
    -------
    Reference
        The problem with its minimized cost and all that is known of the optimum.

    References
    ----------
    .. [1] J. Meditch, On the problem of optimal thrust programming for a lunar soft landing, 1964.
    .. [2] PSOPT/psopt, moon.
    """
    k, c = THRUST / EXHAUST, EXHAUST

    def braked(time: float) -> tuple[float, float]:
        """Change of the velocity and of the height, but for the initial velocity, after a time of full thrust."""
        w = 1.0 - k * time
        return -time - c * math.log(w), -0.5 * time**2 + c / k * (w * math.log(w) - w + 1.0)

    def final_height(time: float) -> float:
        """Height at which a braking of that length ends at rest."""
        change, rise = braked(time)
        fall = speed + change  # duration of the free fall
        return height + speed * fall - 0.5 * fall**2 - change * time + rise

    shortest = float(brentq(lambda b: speed + braked(b)[0], 1e-12, 0.999 / k)) if speed < 0.0 else 1e-12
    if height <= 0.0 or final_height(shortest) <= 0.0:
        raise ValueError(f"height and speed: expected a landing that can still be soft, got {height:g} and {speed:g}.")
    burn = float(brentq(final_height, shortest, 0.999 / k, xtol=1e-15, rtol=1e-15))
    fall = speed + braked(burn)[0]
    switch, duration = t0 + fall, fall + burn
    falling = speed - fall  # velocity at ignition
    last = 1.0 - k * burn  # mass at the end
    pv_end = THRUST / (THRUST / last - 1.0)  # from H = 0 at the end
    ph = k * (pv_end / last - 1.0) / math.log(last)  # from the zero of the switching function at ignition

    def dynamics(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        force = u[..., 0] + torch.zeros_like(x[..., 0])
        return torch.stack((x[..., 1], force / x[..., 2] - 1.0, -force / c), -1)

    def running_cost(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return u[..., 0]

    def control(t: Any) -> Tensor:
        return THRUST * (columns(t) >= switch).double()

    def state(t: Any) -> Tensor:
        past = (columns(t) - t0).clamp(max=fall)
        burning = (columns(t) - switch).clamp_min(0.0)
        mass = 1.0 - k * burning
        h = height + speed * past - 0.5 * past.square() + falling * burning - 0.5 * burning.square()
        h = h + c / k * (mass * torch.log(mass) - mass + 1.0)
        return torch.cat((h, speed - past - burning - c * torch.log(mass), mass), -1)

    def costate(t: Any) -> Tensor:
        mass = state(t)[..., 2:]
        pv = pv_end + ph * (t0 + duration - columns(t))
        switching = ph * torch.log(mass) / k  # while burning; pm rests while falling
        ignition = pv_end + ph * burn
        pm = c * (torch.where(columns(t) < switch, ignition, pv / mass) - 1.0 - switching)
        return torch.cat((torch.full_like(pv, ph), pv, pm), -1)

    return Reference(
        name="moon-lander",
        problem=oc.OptimalControlProblem(
            dynamics,
            running_cost,
            initial_state=torch.tensor([[height, speed, 1.0]], dtype=dtype),
            horizon=(t0, oc.FreeTime(guess=t0 + 1.0)),
            control_set=oc.Box(0.0, THRUST),
            terminal_constraint=oc.Constraint(lambda x: x[..., :2]),
        ),
        cost=THRUST * burn,
        exact=Exact(
            control,
            state,
            costate,
            switches=(switch,),
            final_time=t0 + duration,
            terminal_multiplier=torch.tensor([[-ph, -pv_end]], dtype=torch.float64),
        ),
        tags=frozenset({"bang-bang", "closed-form", "terminal-constraint", "free-time"}),
        source="PSOPT/psopt, moon",
        id="B17",
    )
