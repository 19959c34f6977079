"""Where the projection onto bounds bends a polynomial control, and the same trajectory on a mesh with nodes there."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ocsolver.pieces import Pieces, gauss, lagrange
from ocsolver.sets import ControlSet

__all__ = ["cut_at_kinks"]

LOOKS = 17  # points of every interval between which a crossing of a bound is looked for
HALVINGS = 45
NEAR = 1e-9  # crossings this close to a node are left to the integrator


def cut_at_kinks(
    control_set: ControlSet, t: Tensor, x: Tensor, p: Tensor, pieces: Pieces
) -> tuple[Tensor, Tensor, Tensor, Pieces]:
    """The same trajectory with nodes where a control polynomial crosses a bound.

    An adaptive integrator takes few steps over intervals on which the projected control is smooth, and hundreds over a
    kink. An interval is cut for all groups alike; groups with fewer kinks get intervals of length zero.

    Parameters
    ----------
    control_set : ControlSet
        A box, or the trajectory comes back as it is.
    t : Tensor, shape (N + 1, G)
        Nodes.
    x, p : Tensor, shape (N + 1, B, n)
        States and costates there.
    pieces : Pieces
        Polynomials between them.

    Returns
    -------
    t, x, p : Tensor, shape (N' + 1, …)
        Old and new nodes.
    pieces : Pieces
        The same polynomials between them.
    """
    found = _crossings(control_set, pieces)
    if found is None:
        return t, x, p, pieces
    k, left, right = found  # (N',), (N', G), (N', G)
    s, G = pieces.stages, t.shape[1]
    rows = k[:, None].expand(-1, G)
    inner = left[:, None] + (right - left)[:, None] * gauss(s, t)[0][:, None]  # (N', s, G)
    places = rows.repeat_interleave(s, 0), inner.flatten(0, 1)

    def stages(values: Tensor) -> Tensor:
        return values.reshape(-1, s, *values.shape[1:])

    nu = pieces.multipliers(*places)
    finer = Pieces(
        stages(pieces.controls(*places)),
        stages(pieces.states(x, *places)),
        stages(pieces.costates(p, *places)),
        None if nu is None else stages(nu),
    )
    times = t[k] + (t[k + 1] - t[k]) * left
    nodes = (times, pieces.states(x, rows, left), pieces.costates(p, rows, left))
    t, x, p = (torch.cat((inside, old[-1:])) for inside, old in zip(nodes, (t, x, p), strict=True))
    return t, x, p, finer


def _crossings(control_set: ControlSet, pieces: Pieces) -> tuple[Tensor, Tensor, Tensor] | None:
    """Old interval (N',) and fractions of it at the ends (N', G) of every new interval; None to cut nothing."""
    values = pieces.control  # (N, s, G, m)
    N, s, G, m = values.shape
    bounds = control_set.bounds(values)
    if bounds is None or s == 1:
        return None
    sides = torch.cat(bounds)  # (2 m,)
    sigma = torch.linspace(0.0, 1.0, LOOKS, dtype=values.dtype, device=values.device)
    k = torch.arange(N, device=values.device).repeat_interleave(LOOKS)[:, None].expand(-1, G)
    u = pieces.controls(k, sigma.repeat(N)[:, None].expand(-1, G)).reshape(N, LOOKS, G, m)
    above = u.repeat(1, 1, 1, 2) > sides
    kinks = (above[:, 1:] != above[:, :-1]).nonzero()  # (L, 4): interval, look, group, side
    if not len(kinks):
        return None
    k, look, g, side = kinks.unbind(-1)
    points, own = gauss(s, values)[0], values[k, :, g, side % m]  # (s,), (L, s)
    low, high, start = sigma[look], sigma[look + 1], above[k, look, g, side]
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        before = ((lagrange(points, middle) * own).sum(-1) > sides[side]) == start
        low, high = torch.where(before, middle, low), torch.where(before, high, middle)
    keep = (low > NEAR) & (low < 1.0 - NEAR)
    return _intervals(k[keep], g[keep], low[keep], N, G) if bool(keep.any()) else None


def _intervals(k: Tensor, g: Tensor, sigma: Tensor, N: int, G: int) -> tuple[Tensor, Tensor, Tensor]:
    """Intervals between cuts at fractions σ of intervals k of groups g, each (L,)."""
    key = (k * G + g).cpu().numpy()
    order = np.lexsort((sigma.cpu().numpy(), key))
    counts = np.bincount(key, minlength=N * G)
    rank = np.arange(len(key)) - (np.cumsum(counts) - counts)[key[order]]
    most = int(counts.max())
    sorted_cuts = np.ones((N * G, most))
    sorted_cuts[key[order], rank] = sigma.cpu().numpy()[order]
    cuts = sorted_cuts.reshape(N, G, most).transpose(0, 2, 1)  # (N, M, G)
    ends = np.zeros((N, 1, G)), np.ones((N, 1, G))
    wanted = np.arange(most + 1) <= counts.reshape(N, G).max(1)[:, None]  # (N, M + 1)
    left, right = np.concatenate((ends[0], cuts), 1)[wanted], np.concatenate((cuts, ends[1]), 1)[wanted]
    rows = torch.as_tensor(wanted.nonzero()[0], device=k.device)
    return rows, torch.as_tensor(left).to(sigma), torch.as_tensor(right).to(sigma)
