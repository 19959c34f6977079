"""The sine network of section 5 of the paper: its control problem, samples, starts, and the Hessian of its loss.

It knows nothing of training: methods take a starting control and the loss from here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import grad, vjp, vmap

import ocsolver as oc

__all__ = ["LAYERS", "PARAMETERS", "STARTS", "Case", "Samples", "control_problem", "curvature", "loss", "make_case"]

WIDTH = 5
LAYERS = 20
HORIZON = 5.0  # 20 Euler steps of δ = 0.25
PARAMETERS = WIDTH * (WIDTH + 1)  # W row by row, then b
DTYPE = torch.float64
NOISE = 0.005
STARTS = {
    "good": "weights from a normal distribution of standard deviation 0.1 truncated at two of them, biases 0.1",
    "zero": "all weights and biases exactly zero",
    "noise": f"zero plus uniform noise on ±{NOISE} in all weights and biases, the same for all methods",
}


class Samples(NamedTuple):
    """Inputs and targets, each (B,)."""

    x: Tensor
    y: Tensor


class Case(NamedTuple):
    """Everything random about one seed."""

    seed: int
    train: Samples
    test: Samples
    starts: dict[str, Tensor]  # start -> control (N, 1, m)


def make_case(seed: int, count: int = 1000) -> Case:
    """Draw `count` training and as many test samples on [−π, π], and the starting controls."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return 2.0 * torch.rand(*shape, generator=generator, dtype=DTYPE) - 1.0

    def samples() -> Samples:
        x = math.pi * uniform(count)
        return Samples(x, torch.sin(x))

    train, test = samples(), samples()
    good = torch.full((LAYERS, 1, PARAMETERS), 0.1, dtype=DTYPE)
    torch.nn.init.trunc_normal_(good[..., : WIDTH * WIDTH], std=0.1, a=-0.2, b=0.2, generator=generator)
    zero = torch.zeros_like(good)
    return Case(seed, train, test, {"good": good, "zero": zero, "noise": NOISE * uniform(*good.shape)})


def dynamics(t: Any, x: Tensor, u: Tensor) -> Tensor:
    """Rate tanh(W x + b) for x (*b, B, n), u (*b, 1, m).

    The product is a sum of columns because a matrix product rounds equal rows differently, and the rounding errors then
    grow until they break the symmetry of the exactly zero start.
    """
    weights, z = u[..., : WIDTH * WIDTH].reshape(*u.shape[:-1], WIDTH, WIDTH), u[..., WIDTH * WIDTH :]
    for component, column in zip(x.unbind(-1), weights.unbind(-1), strict=True):
        z = torch.addcmul(z, component.unsqueeze(-1), column)
    return torch.tanh(z)


def initial_state(samples: Samples) -> Tensor:
    """Five identical components (B, n)."""
    return samples.x.unsqueeze(-1).repeat(1, WIDTH)


def terminal_cost(y: Tensor) -> Callable[[Tensor], Tensor]:
    """(Σᵢ xᵢ(T) − y)² of every sample."""
    return lambda x: (x.sum(-1) - y).square()


def control_problem(samples: Samples) -> oc.OptimalControlProblem:
    """One control shared by all samples, no running cost and no regularization."""
    return oc.OptimalControlProblem(
        dynamics,
        None,
        terminal_cost(samples.y),
        initial_state=initial_state(samples),
        horizon=(0.0, HORIZON),
        control_set=oc.Unconstrained(PARAMETERS),
        shared_control=True,
    )


def loss(u: Tensor, samples: Samples) -> Tensor:
    """Mean squared error of the discrete network under a control (N, 1, m), by plain PyTorch."""
    x = initial_state(samples)
    for layer in u.unbind(0):
        x = x + (HORIZON / LAYERS) * dynamics(None, x, layer)
    return terminal_cost(samples.y)(x).mean()


def spread(u: Tensor) -> float:
    """Largest difference of a weight or bias from the mean one of its layer, relative to max(1, largest of all)."""
    parts = u[..., : WIDTH * WIDTH], u[..., WIDTH * WIDTH :]
    largest = max(float((part - part.mean(-1, keepdim=True)).abs().max()) for part in parts)
    return largest / max(1.0, float(u.abs().max()))


def hessian(u: Tensor, samples: Samples) -> Tensor:
    """Exact Hessian (N m, N m) of the loss, by backward differentiation of its gradient."""

    def slope(v: Tensor) -> Tensor:
        gradient: Tensor = grad(lambda w: loss(w.reshape(u.shape), samples))(v)
        return gradient

    pull: Callable[[Tensor], tuple[Tensor]] = vjp(slope, u.detach().flatten())[1]
    chunk = max(30, 30_000 // samples.x.numel())  # rows at a time, for the sake of memory
    (rows,) = vmap(pull, chunk_size=chunk)(torch.eye(u.numel(), dtype=u.dtype))
    matrix: Tensor = rows
    return matrix


def symmetric_basis() -> Tensor:
    """Orthonormal basis (N m, 2 N) of the controls that the exactly zero start cannot leave.

    In each layer all weights are equal, and so are all biases: components of the state, and of the costate, that are
    equal then stay equal, and so do the derivatives with respect to the weights.
    """
    weights = torch.full((WIDTH * WIDTH, 1), 1.0 / WIDTH, dtype=DTYPE)
    biases = torch.full((WIDTH, 1), WIDTH**-0.5, dtype=DTYPE)
    basis: Tensor = torch.block_diag(*[weights, biases] * LAYERS)  # type: ignore[no-untyped-call]
    return basis


def curvature(u: Tensor, samples: Samples) -> dict[str, Any]:
    """Loss, gradient and Hessian's spectrum at a control, and how far the loss falls along the lowest direction."""
    raw = hessian(u, samples)
    matrix = 0.5 * (raw + raw.T)
    values, vectors = torch.linalg.eigh(matrix)
    basis = symmetric_basis()
    lowest = vectors[:, 0].reshape(u.shape)
    here = float(loss(u, samples))
    line = {s * d: float(loss(u + s * d * lowest, samples)) for d in (0.01, 0.03, 0.1, 0.3, 1.0, 3.0) for s in (-1, 1)}
    distance = min(line, key=lambda d: line[d])
    resolution = 1e-8 * float(values.abs().max())
    slope = grad(lambda v: loss(v, samples))(u)
    return {
        "loss": here,
        "gradient_norm": float(torch.linalg.vector_norm(slope)),
        "asymmetry": float((raw - raw.T).abs().max()),
        "smallest": float(values[0]),
        "largest": float(values[-1]),
        "negative": int((values < -resolution).sum()),
        "zero": int((values.abs() <= resolution).sum()),
        "positive": int((values > resolution).sum()),
        "smallest_symmetric": float(torch.linalg.eigvalsh(basis.T @ matrix @ basis)[0]),
        "symmetric_share_of_lowest": float(torch.linalg.vector_norm(basis.T @ vectors[:, 0])),
        "lowest_direction": {"distance": abs(distance), "loss": line[distance]},
        "eigenvalues": values.tolist(),
    }
