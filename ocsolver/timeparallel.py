"""Forward sweeps of many intervals at once by Newton's method; it knows interval maps and no costs or algorithms."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ocsolver.intervals import Intervals, Linearization, run_forward

__all__ = ["Stretch", "newton_sweep", "sweep_by_windows"]

NEWTON_SWEEPS = 8  # corrections before giving up
SHORTEST_WINDOW = 25  # intervals below which stepping one by one is cheaper


class Stretch(NamedTuple):
    """Trajectory over some intervals."""

    x: Tensor  # (N + 1, B, n)
    linearization: Linearization
    running: Tensor  # (N, B)


def newton_sweep(
    intervals: Intervals, guess: Tensor, start: Tensor, u: Tensor, dead: Tensor | None = None
) -> Stretch | None:
    """Solve x_{k+1} = Ψ_k(x_k, u_k) for all k from a guess (N + 1, B, n); None if that does not converge.

    Rows in `dead` (B,) take part, but nobody looks at them.
    """
    found = _newton_prefix(intervals, guess, start, u, dead)
    return found if found is not None and len(found.running) == len(u) else None


def _newton_prefix(
    intervals: Intervals, guess: Tensor, start: Tensor, u: Tensor, dead: Tensor | None = None
) -> Stretch | None:
    """As many intervals from the first one as Newton's method has solved when it ends, at least one; None if none."""
    x = guess
    tolerance = 100 * torch.finfo(x.dtype).eps
    accurate = 1e3 * tolerance if x.dtype == torch.float64 else 10 * tolerance
    previous = torch.inf
    for sweep in range(NEWTON_SWEEPS):
        step = intervals.linearize(x[:-1], u)
        correction = run_forward(step.jacobian, start - x[0], step.x_next - x[1:])
        live = x if dead is None else x[:, ~dead]
        size = correction.abs() / (x.abs().amax(0) + live.abs().mean() * 1e-3 + 1e-300)
        if dead is not None:
            size = torch.where(dead[:, None], 0.0, size)
        change = float(size.max())
        moved = correction[:-1] if not change <= tolerance else torch.zeros_like(correction[:-1])
        running = step.running + (step.slope * moved).sum(-1)
        x = x + correction
        if change <= accurate:
            return Stretch(x, step, running)
        diverging = not np.isfinite(change) or (change > 2.0 * previous and change > 10.0)
        if diverging or sweep == NEWTON_SWEEPS - 1:
            good = (size <= accurate).all(-1).all(-1)
            length = int(good.to(torch.int8).cumprod(0).sum()) - 1  # of the nodes from the first one
            if length < 1:
                return None
            return Stretch(x[: length + 1], Linearization(*(part[:length] for part in step)), running[:length])
        previous = change
    return None


def sweep_by_windows(intervals: Intervals, guess: Tensor, start: Tensor, u: Tensor) -> Stretch | None:
    """The same where the guess is too far off for all intervals at once: one stretch of time after the other.

    Newton's method converges from the first interval on, the sooner the less time a trajectory has to leave its guess.
    What it has solved is kept; where that is little, the window is halved, and the shortest are stepped. None if the
    trajectory is not finite.
    """
    N = u.shape[0]
    k, width, parts = 0, N, list[Stretch]()
    while k < N:
        end = min(k + width, N)
        part = replace(intervals, t=intervals.t[k:end], h=intervals.h[k:end])
        near = guess[k : end + 1]
        if width < SHORTEST_WINDOW:
            found = _stepped(part, start, u[k:end])
            if found is None:
                return None
        else:
            found = _newton_prefix(part, near + (start - near[0]), start, u[k:end])
        solved = 0 if found is None else len(found.running)
        whole = solved == end - k
        width = max(2 * width if whole else (end - k) // 2, SHORTEST_WINDOW if whole else SHORTEST_WINDOW // 2)
        if found is not None and (whole or solved >= SHORTEST_WINDOW // 2):
            parts.append(found)
            k, start = k + solved, found.x[-1]
    x = torch.cat([parts[0].x[:1], *(part.x[1:] for part in parts)])
    pieces = zip(*(part.linearization for part in parts), strict=True)
    running = torch.cat([part.running for part in parts])
    return Stretch(x, Linearization(*(torch.cat(piece) for piece in pieces)), running)


def _stepped(intervals: Intervals, start: Tensor, u: Tensor) -> Stretch | None:
    """Interval by interval."""
    x = [start]
    for k in range(u.shape[0]):
        x.append(intervals.step(k, x[-1], u[k])[0])
    states = torch.stack(x)
    if not bool(torch.isfinite(states).all()):
        return None
    linearization = intervals.linearize(states[:-1], u)
    return Stretch(states, linearization, linearization.running)
