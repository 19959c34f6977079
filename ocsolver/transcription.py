"""What a sweep solver sees of a problem: a chain of sites to run forward and backward; it knows no problem class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import singledispatch
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from ocsolver.errors import UnsupportedError, complaint
from ocsolver.hamiltonian import HamiltonianBlock
from ocsolver.status import Status

__all__ = ["Control", "Discretization", "Failure", "Forward", "Response", "Sweep", "Transcription", "transcribe"]

Control = tuple[Tensor, ...]  # blocks (K_b, G, m_b): one for a continuous problem, one per family of equal layers


class Forward(Protocol):
    """What a forward sweep leaves behind."""

    @property
    def control(self) -> Control: ...  # the control that was simulated
    @property
    def cost(self) -> Tensor: ...  # (G,), inf where the simulation failed
    @property
    def scale(self) -> Tensor: ...  # (G,), ∫|L| dt + |Φ|: the unit of the residual
    @property
    def finite(self) -> Tensor: ...  # (G,), bool


class Response(NamedTuple):
    """∂²J/∂u² about CᵀC + λ, with D controls in all blocks together."""

    rows: Tensor  # C (R, D)
    shift: float  # λ


@dataclass(frozen=True, eq=False)
class Sweep:
    """What a backward sweep adds: the Hamiltonian blocks and the costates inside them."""

    forward: Any
    blocks: tuple[HamiltonianBlock, ...]
    p: Any  # costates, (N + 1, B, n) for a continuous problem
    terminal: Callable[[], Tensor] | None = None  # ∂²Φ/∂x² (B, n, n), if the block tells how its sites are coupled
    response: Callable[[int, int], Response | None] | None = None  # from so many samples, others for each draw


@dataclass(frozen=True)
class Failure:
    """Why the simulation of a group failed."""

    status: Status
    message: str


class Transcription(Protocol):
    """A problem after the choice of mesh, integrator and adjoint."""

    groups: int

    def start(self, initial_control: Any) -> Control:
        """Admissible starting control from whatever the user gave."""
        ...

    def check(self, control: Control) -> None:
        """Probe the user's callables before any work."""
        ...

    def forward(self, control: Control, near: Any = None) -> Any:
        """Simulate; `near` is the forward sweep of a control close by, which may be used to go faster."""
        ...

    def backward(self, forward: Any) -> Sweep:
        """Costates and Hamiltonian blocks of a forward sweep."""
        ...

    def merge(self, mask: Tensor, new: Any, old: Any) -> Any:
        """Forward sweep that takes the groups in `mask` (G,) from `new` and the others from `old`."""
        ...

    def diagnose(self, forward: Any, group: int) -> Failure:
        """Name the function, time and component that made a group fail."""
        ...


@dataclass(frozen=True)
class Discretization:
    """Mesh, integrator and adjoint as the user gave them; None means the default of the problem class."""

    mesh: Any = None
    integrator: Any = None
    adjoint: Any = None


@singledispatch
def transcribe(problem: Any, discretization: Discretization) -> Any:
    """Turn a problem into a transcription; each problem class registers its own."""
    todo = "Pass an oc.OptimalControlProblem."
    raise UnsupportedError(
        complaint("problem", expected="an optimal control problem", got=type(problem).__name__, todo=todo)
    )
