"""Functions of tensors as expressions of scalars: traced once, differentiated exactly, evaluated at many points."""

from ocsolver.tape.derivatives import gradient, jacobian
from ocsolver.tape.graph import Graph, Untraceable
from ocsolver.tape.program import Program
from ocsolver.tape.trace import trace

__all__ = ["Graph", "Program", "Untraceable", "gradient", "jacobian", "trace"]
