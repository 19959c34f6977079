"""Solvers: frozen bags of algorithm choices, driven by one loop."""

from ocsolver.solvers.base import Limits, Solver, SweepSolver
from ocsolver.solvers.gradient import GradientDescent
from ocsolver.solvers.msa import EMSA, MSA, AdaptivePenalty

__all__ = ["EMSA", "MSA", "AdaptivePenalty", "GradientDescent", "Limits", "Solver", "SweepSolver"]
