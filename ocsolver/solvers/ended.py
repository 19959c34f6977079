"""What campaigns have ended with, as arrays; groups of a batch that were tried alone take their places in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from ocsolver._record import record
from ocsolver.collocation.campaign import Campaign
from ocsolver.collocation.dense import control_basis, limited
from ocsolver.collocation.fine import between
from ocsolver.collocation.refine import padded, resampled
from ocsolver.collocation.tableau import gauss
from ocsolver.collocation.unknowns import Bounds, Mesh

__all__ = ["Ended"]

Array = np.ndarray[Any, np.dtype[Any]]

# axes of the groups
GROUPS = {"t": 1, "nodes": 1, "costates": 1, "x": 2, "p": 2, "u": 2, "y": 2, "nu": 0, "cost": 0, "residual": 0}


@cache
def _fine(s: int) -> tuple[Array, Array]:
    """Values of the polynomials through s Gauss points at those of a finer rule (q, s), and its weights (q,)."""
    fine = gauss(s + 2)
    return control_basis(gauss(s), fine.c), fine.b


@record
class Ended:
    """Polynomials of all groups by their values at the nodes and at the Gauss points of the intervals."""

    t: Array  # (N + 1, G), in the time of the campaign
    nodes: Array  # (N + 1, G, v)
    costates: Array  # (N + 1, G, v)
    x: Array  # (N, s, G, v)
    p: Array  # (N, s, G, v)
    u: Array  # (N, s, G, m), between its bounds
    y: Array  # (N, s, G, e)
    nu: Array  # (G, k)
    cost: Array  # (G,)
    residual: Array  # (G,)

    @classmethod
    def of(cls, campaign: Campaign) -> Ended:
        """Where a campaign has ended."""
        camp = campaign.camp
        tableau, point, limits = camp.mesh.tableau, camp.point, camp.limits
        strict = None if camp.stacked.guise is None else camp.stacked.guise.strict
        u = limited(tableau, point.u, limits.control_lower, limits.control_upper, strict)
        inside = point.x, point.p, u, point.y
        if tableau.closed:
            at = between(camp.stacked, limits, camp.mesh, replace(point, u=u), gauss(tableau.s).c)
            inside = at.x, at.p, at.u, at.y
        ends = camp.mesh.t, point.nodes, point.costates
        return cls(*ends, *inside, point.nu, camp.cost, camp.residual)

    def means(self, limits: Bounds) -> Array:
        """Means of the controls, clipped between their bounds, over the intervals (N, G, m)."""
        N, s, G, m = self.u.shape
        if limits.open[0][0]:
            return np.asarray((gauss(s).b @ self.u.reshape(N, s, G * m)).reshape(N, G, m))
        basis, weights = _fine(s)
        u = (basis @ self.u.reshape(N, s, G * m)).reshape(N, -1, G, m)
        u = np.minimum(np.maximum(u, limits.control_lower), limits.control_upper)
        return np.asarray((weights @ u.reshape(N, -1, G * m)).reshape(N, G, m))

    def with_alone(self, campaigns: Mapping[int, Campaign]) -> Ended:
        """Some groups as campaigns for them alone have ended; intervals are divided until all have equally many."""
        others = {g: Ended.of(campaign) for g, campaign in campaigns.items()}
        count = max(len(ended.t) for ended in (self, *others.values()))
        whole = self._divided(count)
        for g, ended in others.items():
            own = ended._divided(count)
            for name, axis in GROUPS.items():
                np.moveaxis(getattr(whole, name), axis, 0)[g] = np.moveaxis(getattr(own, name), axis, 0)[0]
        return whole

    def _divided(self, count: int) -> Ended:
        """A copy on meshes of so many nodes, with the same polynomials."""
        parts = {name: getattr(self, name).copy() for name in GROUPS}
        if count > len(self.t):
            tableau = gauss(self.x.shape[1])
            mesh = Mesh(np.stack([padded(own, count) for own in self.t.T], 1), tableau)
            x, u, p, y, nodes, costates = resampled(Mesh(self.t, tableau), self, mesh)
            parts |= {"t": mesh.t, "nodes": nodes, "costates": costates, "x": x, "u": u, "p": p, "y": y}
        return Ended(**parts)
