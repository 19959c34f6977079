"""Neural networks as control problems: residual networks, layered problems, flows, mini-batch training."""

from ocsolver.nn.flow import ResidualFlow
from ocsolver.nn.network import ResidualNetwork
from ocsolver.nn.problem import NetworkProblem
from ocsolver.nn.records import EpochRecord, Evaluation, EvaluationRecord, StepRecord, TrainingHistory
from ocsolver.nn.solution import NetworkSolution
from ocsolver.nn.trainer import Trainer

__all__ = [
    "EpochRecord",
    "Evaluation",
    "EvaluationRecord",
    "NetworkProblem",
    "NetworkSolution",
    "ResidualFlow",
    "ResidualNetwork",
    "StepRecord",
    "Trainer",
    "TrainingHistory",
]
