"""Hamiltonian maximizers: plug-ins that know only a Hamiltonian block."""

from ocsolver.maximizers.base import Maximizer, Maximum
from ocsolver.maximizers.closed_form import ClosedForm
from ocsolver.maximizers.default import default_maximizer, second_order
from ocsolver.maximizers.enumeration import Enumeration
from ocsolver.maximizers.gauss_newton import GaussNewton
from ocsolver.maximizers.lbfgs import LBFGS
from ocsolver.maximizers.newton import ProjectedNewton

__all__ = [
    "LBFGS",
    "ClosedForm",
    "Enumeration",
    "GaussNewton",
    "Maximizer",
    "Maximum",
    "ProjectedNewton",
    "default_maximizer",
    "second_order",
]
