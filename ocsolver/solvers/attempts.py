"""One campaign of collocation after the other, for all groups of a problem and for those that failed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ocsolver.collocation.campaign import Campaign
from ocsolver.collocation.guess import Tries
from ocsolver.collocation.refine import divided
from ocsolver.solvers.recalled import EVEN, Posed
from ocsolver.status import Status

__all__ = ["FAILURES", "best", "from_solution", "merit", "tried_alone"]

FINER = 4  # parts of the intervals of a mesh that leads nowhere
FEW, SHARE = 4, 8  # failing groups that are tried alone: so many, and one in so many groups
FAILURES = (Status.STALLED, Status.INFEASIBLE, Status.NONFINITE)


def from_solution(first: Campaign, posed: Posed) -> Campaign:
    """Run from a solution of a similar problem, and where that fails as if there were none."""
    first.run(posed.nodes, warm=posed.warm)
    enough = first.succeeded or _few(first, int((~first.successes).sum()))  # a few are tried alone
    if enough or first.ending is not None or not first.camp.time_left():
        return first
    ends = posed.nodes[0], posed.nodes[-1]
    again = best(first.another(damps=first.damps), np.linspace(*ends, EVEN + 1), None, finer=True)
    return _leader([first, again])


def best(first: Campaign, nodes: Any, control: Any, *, finer: bool) -> Campaign:
    """Run from a given mesh, and where that leads nowhere from a `finer` one, or by another method.

    Of the guesses, the finer mesh has the first one alone, but before the others: it costs less than these. Gauss's
    method takes the place of Radau's where that has failed, and Radau's that of Gauss's where it has found singular
    arcs, along which controls may rattle.
    """
    alone = finer and first.stacked.groups == 1  # in a batch, those that did well would pay for the others
    first.tries = Tries.FIRST if alone else Tries.ALL
    first.run(nodes, control)
    tried = [first]

    def attempt(campaign: Campaign, nodes: Any) -> None:
        tried.append(campaign)
        campaign.run(nodes, control)

    def failing() -> bool:
        last = tried[-1]
        return last.ending is None and last.camp.time_left() and not last.succeeded

    def nowhere() -> bool:
        return failing() and (bool(tried[-1].lost.all()) or not tried[-1].started)

    if finer and nowhere():
        fine = np.stack([divided(own, np.full(len(nodes) - 1, FINER)) for own in nodes.T], 1)
        attempt(first.another(damps=first.damps, at_once=first.damps, tries=Tries.FIRST), fine)
        if not first.started and nowhere():
            attempt(tried[-1].another(damps=first.damps, tries=Tries.OTHERS), nodes)
    if (first.damped or tried[-1].damped) and failing():
        attempt(tried[-1].another(damps=False), nodes)
    if failing() and 2 * tried[-1].successes.sum() <= first.stacked.groups:  # the others would pay for a few
        leader = max(tried, key=merit)
        if leader.rested and not leader.damped:
            attempt(tried[-1].another(damps=False, at_once=True), leader.nodes)
    return _leader(tried)


def tried_alone(batch: Campaign, posed: Posed, damps: bool, outside: list[str]) -> dict[int, Campaign]:
    """Of a batch, groups that failed though most others did not, each tried as a problem of its own.

    What succeeds takes its place in the batch: its status, its notes, and what is known of its cost.
    """
    retried = (*FAILURES, Status.MAX_ITERATIONS)  # the others may have used them up
    failing = [g for g, status in enumerate(batch.status) if status in retried and not outside[g]]
    stacked = posed.stacked
    if batch.ending is not None or not _few(batch, len(failing)):
        return {}
    better: dict[int, Campaign] = {}
    for g in failing:
        if batch.stop.late():
            break
        rows = np.array([g])
        own = replace(
            batch.another(damps=damps),
            stacked=stacked.part(rows),
            limits=posed.limits.part(rows),
            callback=None,
            history=[],
            counts={"iterations": 0, "meshes": 0},
        )
        control = None if posed.control is None else posed.control[:, rows]
        found = best(own, posed.nodes[:, rows], control, finer=control is None)
        if found.succeeded:
            better[g] = found
            batch.status[g], batch.notes[g] = found.status[0], found.notes[0]
            batch.error[g], batch.camp.cost[g] = found.error[0], found.camp.cost[0]
    return better


def _leader(tried: list[Campaign]) -> Campaign:
    """The best of some campaigns, of equals the first, with the history of all: that of the last."""
    leader = max(tried, key=merit)
    leader.history, leader.counts = tried[-1].history, tried[-1].counts
    return leader


def _few(batch: Campaign, failing: int) -> bool:
    """Whether groups of a batch that fail are so few that each may be tried alone."""
    G = len(batch.status)
    return G > 1 and batch.stacked.separable and failing <= FEW + G // SHARE


def merit(campaign: Campaign) -> tuple[int, int, float]:
    """How well a campaign has ended: groups that succeeded, others that are not lost, and how low their costs are."""
    near = ~campaign.lost
    return int(campaign.successes.sum()), int(near.sum()), -float((campaign.camp.cost + campaign.error)[near].sum())
