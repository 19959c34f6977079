"""Direct single shooting by SciPy's L-BFGS-B on the discrete cost with the exact gradient: the honest baseline."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from ocsolver.errors import UnsupportedError, complaint
from ocsolver.solvers.base import Iterate, Limits, Run, Solver, Step, SweepSolver, Timed
from ocsolver.transcription import Control

__all__ = ["DirectShooting"]
