"""Neural networks as control problems: residual networks, layered problems and flows."""

from ocsolver.nn.flow import ResidualFlow
from ocsolver.nn.layered import NetworkProblem
from ocsolver.nn.network import ResidualNetwork
from ocsolver.nn.solution import NetworkSolution

__all__ = ["NetworkProblem", "NetworkSolution", "ResidualFlow", "ResidualNetwork"]
