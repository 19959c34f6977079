"""Optimal control by Pontryagin's maximum principle, in PyTorch."""

from ocsolver import nn
from ocsolver.adjoints import Adjoint, ContinuousAdjoint, DiscreteAdjoint
from ocsolver.arcs import Arcs, find_arcs
from ocsolver.certificate import Certificate
from ocsolver.certify import certify
from ocsolver.constraints import Constraint, FreeInitialState, FreeTime
from ocsolver.errors import (
    ConvergenceWarning,
    InputError,
    OCSolverError,
    ShapeError,
    SolveError,
    UnsupportedError,
)
from ocsolver.integrators import RK4, Euler, Heun, Integrator, SolveIVP, TorchDiffEq
from ocsolver.maximizers import LBFGS, ClosedForm, Enumeration, GaussNewton, Maximizer, ProjectedNewton
from ocsolver.mesh import Mesh
from ocsolver.pieces import Pieces
from ocsolver.problem import OptimalControlProblem
from ocsolver.sets import Ball, Box, ControlSet, FiniteSet, Product, Unconstrained
from ocsolver.solution import History, Solution, Stats
from ocsolver.solve import solve
from ocsolver.solvers import (
    EMSA,
    MSA,
    SQH,
    AdaptivePenalty,
    Anderson,
    AugmentedLagrangian,
    Collocation,
    Continuation,
    DirectShooting,
    GradientDescent,
    MultiStart,
    Solver,
    sum_up_rounding,
)
from ocsolver.status import Status
from ocsolver.storage import load

__version__ = "0.1.0"

__all__ = [
    "EMSA",
    "LBFGS",
    "MSA",
    "RK4",
    "SQH",
    "AdaptivePenalty",
    "Adjoint",
    "Anderson",
    "AugmentedLagrangian",
    "Arcs",
    "Ball",
    "Box",
    "Certificate",
    "ClosedForm",
    "Collocation",
    "Constraint",
    "Continuation",
    "ContinuousAdjoint",
    "ControlSet",
    "ConvergenceWarning",
    "DirectShooting",
    "DiscreteAdjoint",
    "Enumeration",
    "Euler",
    "FiniteSet",
    "FreeInitialState",
    "FreeTime",
    "GaussNewton",
    "GradientDescent",
    "Heun",
    "History",
    "InputError",
    "Integrator",
    "Maximizer",
    "Mesh",
    "MultiStart",
    "OCSolverError",
    "OptimalControlProblem",
    "Pieces",
    "Product",
    "ProjectedNewton",
    "ShapeError",
    "Solution",
    "SolveError",
    "SolveIVP",
    "Solver",
    "Stats",
    "Status",
    "TorchDiffEq",
    "Unconstrained",
    "UnsupportedError",
    "certify",
    "find_arcs",
    "load",
    "nn",
    "solve",
    "sum_up_rounding",
]
