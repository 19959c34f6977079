"""Solvers: frozen bags of algorithm choices, driven by one loop."""

from ocsolver.solvers.anderson import Anderson
from ocsolver.solvers.base import Limits, Solver, SweepSolver
from ocsolver.solvers.collocation import Collocation
from ocsolver.solvers.continuation import Continuation
from ocsolver.solvers.emsa import EMSA
from ocsolver.solvers.gradient import GradientDescent
from ocsolver.solvers.lagrangian import AugmentedLagrangian
from ocsolver.solvers.msa import MSA
from ocsolver.solvers.multistart import MultiStart
from ocsolver.solvers.penalty import AdaptivePenalty
from ocsolver.solvers.rounding import sum_up_rounding
from ocsolver.solvers.shooting import DirectShooting
from ocsolver.solvers.sqh import SQH

__all__ = [
    "EMSA",
    "MSA",
    "SQH",
    "AdaptivePenalty",
    "Anderson",
    "AugmentedLagrangian",
    "Collocation",
    "Continuation",
    "DirectShooting",
    "GradientDescent",
    "Limits",
    "MultiStart",
    "Solver",
    "SweepSolver",
    "sum_up_rounding",
]
