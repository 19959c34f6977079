"""Which maximizer serves a block when the user names none."""

from __future__ import annotations

from ocsolver.hamiltonian import HamiltonianBlock
from ocsolver.maximizers.base import Maximizer
from ocsolver.maximizers.enumeration import Enumeration
from ocsolver.maximizers.lbfgs import LBFGS
from ocsolver.maximizers.newton import ProjectedNewton

__all__ = ["default_maximizer", "second_order"]

EXPANSION_LIMIT = 1_000_000  # entries of the m-fold replicated rates that a second-order expansion may fill
CONTROL_LIMIT = 100  # components of a control whose Hessians are still worth forming and factoring


def second_order(block: HamiltonianBlock) -> bool:
    """Whether a second-order expansion of the block is affordable and fits its control set."""
    m = block.current.shape[-1]
    affordable = m <= CONTROL_LIMIT and m * block.sensitivity.numel() <= EXPANSION_LIMIT
    return affordable and block.control_set.bounds(block.current) is not None


def default_maximizer(block: HamiltonianBlock) -> Maximizer:
    """Enumeration on finite sets, Newton where second derivatives are cheap, L-BFGS otherwise."""
    if not block.control_set.convex:
        return Enumeration()
    return ProjectedNewton() if second_order(block) else LBFGS()
