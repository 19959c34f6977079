"""Integrators of ordinary differential equations over one interval, batched over rows; they know nothing of control."""

from ocsolver.integrators.base import Field, Integrator
from ocsolver.integrators.fixed import RK4, Euler, Heun
from ocsolver.integrators.scipy import SolveIVP
from ocsolver.integrators.torchdiffeq import TorchDiffEq

__all__ = ["RK4", "Euler", "Field", "Heun", "Integrator", "SolveIVP", "TorchDiffEq"]
