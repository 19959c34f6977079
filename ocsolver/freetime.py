"""A free final time as a state: the problem on unit time, where nothing but the initial state is free."""

from __future__ import annotations

import torch
from torch import Tensor

from ocsolver.constraints import Constraint, FreeInitialState
from ocsolver.problem import OptimalControlProblem

__all__ = ["on_unit_time"]

SHORTEST = 1e-6  # duration relative to the guess, where no bound is given


def on_unit_time(problem: OptimalControlProblem) -> OptimalControlProblem:
    """The problem with its duration T = t1 − t0 as one more state, on the horizon (0, 1).

    With τ = (t − t0)/T, dx/dτ = T f(t0 + Tτ, x, u), dT/dτ = 0, and T(0) is free between its bounds. The costate of T
    holds the transversality condition of the final time, ∂f/∂t1 included: it vanishes at τ = 0 (inside the bounds)
    and at τ = 1. A problem with a fixed final time comes back as it is.

    Parameters
    ----------
    problem : OptimalControlProblem
        With or without a free final time.

    Returns
    -------
    OptimalControlProblem
        On unit time, with n + 1 states, the last of them T.
    """
    free = problem.free_time
    if free is None:
        return problem
    t0, t1 = problem.horizon
    start = problem.initial_state  # (B, n)
    ends = problem.free_initial_state
    guess = torch.cat((start, torch.full_like(start[:, :1], t1 - t0)), -1)
    low, high = (start, start) if ends is None else (ends.lower, ends.upper)
    shortest = max(free.lower - t0, SHORTEST * (t1 - t0))
    ends_of_time = (shortest, free.upper - t0)
    lower, upper = (
        torch.nn.functional.pad(side, (0, 1), value=end) for side, end in zip((low, high), ends_of_time, strict=True)
    )

    def clock(tau: Tensor, z: Tensor) -> Tensor:
        return t0 + z[..., -1] * tau

    def dynamics(tau: Tensor, z: Tensor, u: Tensor) -> Tensor:
        x, T = z[..., :-1], z[..., -1:]
        rate = problem.dynamics(clock(tau, z), x, u)
        return torch.cat((T * rate.expand(x.shape), torch.zeros_like(T)), -1)

    def running_cost(tau: Tensor, z: Tensor, u: Tensor) -> Tensor:
        assert problem.running_cost is not None
        return z[..., -1] * problem.running_cost(clock(tau, z), z[..., :-1], u)

    def terminal_cost(z: Tensor) -> Tensor:
        assert problem.terminal_cost is not None
        return problem.terminal_cost(z[..., :-1])

    terminal, path = problem.terminal_constraint, problem.path_constraint
    return OptimalControlProblem(
        dynamics,
        None if problem.running_cost is None else running_cost,
        None if problem.terminal_cost is None else terminal_cost,
        initial_state=FreeInitialState(guess, lower, upper),
        horizon=(0.0, 1.0),
        control_set=problem.control_set,
        shared_control=problem.shared_control,
        terminal_constraint=terminal
        and Constraint(lambda z: terminal.terminal(z[..., :-1]), terminal.lower, terminal.upper),
        path_constraint=path
        and Constraint(lambda tau, z, u: path.path(clock(tau, z), z[..., :-1], u), path.lower, path.upper),
    )
