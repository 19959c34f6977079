"""Gauss–Newton steps on the augmented Hamiltonian: dense, matrix-free, and structured for affine layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ocsolver._autodiff import gradients, leaf
from ocsolver.errors import InputError, complaint
from ocsolver.hamiltonian import HamiltonianBlock, Penalty
from ocsolver.maximizers.averages import BlockAverage
from ocsolver.maximizers.base import Maximizer, Maximum, keep_best, unsupported
from ocsolver.maximizers.default import second_order
from ocsolver.maximizers.newton import LONGEST, bounded_step
from ocsolver.maximizers.structured import Linear, affine_form, curvature_of, damped, finite, kronecker, rows, tiny

__all__ = ["GaussNewton"]

SHORTENINGS = 8  # of a step that does not ascend, each to a third
CG_ITERATIONS = 20
CG_ACCURACY = 0.05  # of the residual of the linear system


@dataclass(frozen=True)
class GaussNewton(Maximizer):
    """One damped Gauss–Newton step on both penalties of H̃, with the gradient of H itself.

    The second derivative of H̃ is −ρ⟨FᵀF⟩ − ρ⟨QᵀQ⟩ at the current control, with F = ∂f/∂u and Q = ∂²H/∂x∂u, when what
    is of second order in f is left out. How it is inverted depends on the block:

    - affine layers of moderate size: the exact first term row by row, the second one by its diagonal, ρ⟨y_j²⟩ on the
      weights of row j, where y = ∂H/∂z;
    - other affine layers, convolutions among them: the Kronecker sum ρ(K dΘ A) + ρ(B dW), with A = ⟨x̃x̃ᵀ⟩, B = ⟨yyᵀ⟩ and
      K = diag⟨s²⟩, by two eigendecompositions;
    - few controls: dense matrices, to which the concave part of H is added;
    - anything else: conjugate gradients with Jacobian-vector products.

    A step that does not raise H̃ is shortened.

    Parameters
    ----------
    damping : float, default 0.1
        Added to the diagonal, relative to its mean. Without it the weights run away where ⟨FᵀF⟩ is nearly singular.
    form : {"auto", "rows", "inputs", "kronecker", "dense", "cg"}, default "auto"
        The way of inversion; "inputs" is "kronecker" without the second penalty.

    References
    ----------
    .. [1] J. Martens, R. Grosse, *Optimizing Neural Networks with Kronecker-factored Approximate Curvature*, ICML 2015.

    Examples
    --------
    >>> import ocsolver as oc
    >>> oc.GaussNewton(damping=0.01)
    GaussNewton(damping=0.01, form='auto')
    """

    damping: float = 0.1
    form: str = "auto"

    def __post_init__(self) -> None:
        damping = self.damping
        if isinstance(damping, bool) or not isinstance(damping, (int, float)) or not 0.0 < damping < float("inf"):
            todo = "Leave it out for the default, 0.1."
            raise InputError(
                complaint("GaussNewton damping", expected="a positive number", got=repr(damping), todo=todo)
            )
        if self.form not in FORMS:
            todo = "Leave it out for the default, 'auto'."
            raise InputError(complaint("GaussNewton form", expected=f"one of {FORMS}", got=repr(self.form), todo=todo))

    def maximize(self, block: HamiltonianBlock, penalty: Penalty | None = None, memory: Any = None) -> Maximum:
        if block.control_set.bounds(block.current) is None:
            todo = "Use oc.LBFGS() on a Ball, oc.Enumeration() on a FiniteSet."
            raise unsupported(self, "an Unconstrained set, a Box or a product of them", block.control_set, todo)
        step = self.direction(block, penalty or Penalty.uniform(block.current.new_zeros(block.groups)))
        return _shortened(block, penalty, step, memory)

    def averages(self, block: HamiltonianBlock) -> bool:
        return block.layered and block.groups == 1 and block.parts is not None

    def sampled_step(self, block: HamiltonianBlock, memory: dict[str, Any] | None) -> tuple[Tensor, dict[str, Any]]:
        average = BlockAverage.unpack(memory).seen(block, self.damping)
        return average.step(block.current_slope), average.pack()

    def inverse(self, block: HamiltonianBlock, shift: float = 0.0) -> Linear:
        """The damped inverse of the Gauss–Newton matrix for ρ = 1 as a linear map, perhaps estimated from some samples.

        Parameters
        ----------
        block : HamiltonianBlock
            A block of layers without bounds.
        shift : float
            Added to the diagonal, in the forms with rows and the dense one; in the Kronecker forms relative to ⟨s²⟩.

        Returns
        -------
        callable
            (*l, K, 1, m) -> (*l, K, 1, m) (in the other forms without leading axes l); times 1/ρ it is the inverse for
            another ρ.
        """
        one = torch.ones_like(block.current[0, :, 0])
        penalty = Penalty(one, one, 0.5 * shift * one)
        form = self._form(block)
        if form in AFFINE_FORMS:
            return self._structured(block, form, penalty, estimate=True)
        if form == "dense":
            factor, _ = torch.linalg.cholesky_ex(self._dense_matrix(block, penalty))
            return lambda slope: torch.cholesky_solve(slope[..., None], factor)[..., 0]
        if self.averages(block):
            return BlockAverage().seen(block, self.damping).step
        diagonal = finite(_Products(block, penalty).diagonal()).clamp_min(0.0)
        mean = diagonal.mean(-1, keepdim=True)
        half = 0.5 * (diagonal + mean)  # the estimate is noisy: half of it is its mean
        scale = half + self.damping * mean + tiny(mean)
        return lambda slope: slope / scale

    def _structured(self, block: HamiltonianBlock, form: str, penalty: Penalty, *, estimate: bool = False) -> Linear:
        """The damped inverse for a block of affine layers."""
        view = block.affine
        assert view is not None
        solver_of = rows if form == "rows" else kronecker
        curvature, shape = curvature_of(view, form, estimate=estimate), view.shape
        solve = solver_of(view, curvature, penalty, self.damping)
        return lambda slope: shape.vector(solve(shape.matrix(slope[..., 0, :]))).unsqueeze(-2)

    def direction(self, block: HamiltonianBlock, penalty: Penalty) -> Tensor:
        """Damped Gauss–Newton step, before anything has tested whether it raises H̃.

        Parameters
        ----------
        block : HamiltonianBlock
            K × G decoupled problems.
        penalty : Penalty
            Weights of the feasibility terms.

        Returns
        -------
        Tensor, shape (K, G, m)
            Zero only where H is stationary.
        """
        form = self._form(block)
        if form == "dense":
            return self._dense(block, penalty)
        if form == "cg":
            return self._conjugate(block, penalty)
        return self._structured(block, form, penalty)(block.current_slope)

    def _form(self, block: HamiltonianBlock) -> str:
        affine = block.view is not None and block.groups == 1
        if self.form == "auto":
            if affine:
                return affine_form(block.affine)  # type: ignore[arg-type]
            return "dense" if second_order(block) else "cg"
        if self.form in AFFINE_FORMS and not affine:
            todo = "Use form='auto'."
            raise unsupported(self, "layers that consist of an affine map and an activation", "other dynamics", todo)
        return self.form

    def _dense(self, block: HamiltonianBlock, penalty: Penalty) -> Tensor:
        """Solve with the Gram matrices and the concave part of H, within the bounds."""
        matrix, slope = self._dense_matrix(block, penalty), block.current_expansion.gradient
        lower, upper = bounds_of(block)
        return bounded_step(slope, matrix, lower - block.current, upper - block.current, block.current)[0]

    def _dense_matrix(self, block: HamiltonianBlock, penalty: Penalty) -> Tensor:
        """Gram matrices and the concave part of H, damped (K, G, m, m)."""
        expansion = block.current_expansion
        rho_f, rho_q, epsilon = (weight[:, None, None] for weight in penalty)
        matrix = rho_f * expansion.state_gram + rho_q * expansion.costate_gram + concave_part(expansion.hessian)
        return damped(matrix, self.damping, 2.0 * epsilon)

    def _conjugate(self, block: HamiltonianBlock, penalty: Penalty) -> Tensor:
        """Conjugate gradients, all rows at once; components that the gradient pushes out of the set are held."""
        products = _Products(block, penalty)
        lower, upper = bounds_of(block)
        slope, u = block.current_slope, block.current
        free = ~(((u <= lower) & (slope < 0)) | ((u >= upper) & (slope > 0)))
        right = slope * free
        shift = self.damping * products.mean_diagonal()[..., None] + 2.0 * penalty.epsilon[:, None] + tiny(right)
        step, residual, direction = torch.zeros_like(right), right, right
        size = right.square().sum(-1)
        goal = CG_ACCURACY**2 * size
        for _ in range(CG_ITERATIONS):
            running = size > goal
            if not bool(running.any()):
                break
            image = free * products.apply(direction) + shift * direction
            length = torch.where(running, size / (direction * image).sum(-1), 0.0)[..., None]
            step, residual = step + length * direction, residual - length * image
            new = residual.square().sum(-1)
            direction = torch.where(running[..., None], residual + (new / size)[..., None] * direction, direction)
            size = torch.where(running, new, size)
        far = LONGEST * (1.0 + u.abs().amax(-1, keepdim=True))
        return step.clamp(-far, far)


AFFINE_FORMS = ("rows", "inputs", "kronecker")
FORMS = ("auto", *AFFINE_FORMS, "dense", "cg")


def _shortened(block: HamiltonianBlock, penalty: Penalty | None, step: Tensor, memory: Any) -> Maximum:
    """Shorten the step of each row until H̃ rises."""
    length = torch.ones_like(step[..., :1])
    best, gain = block.current, torch.zeros_like(step[..., 0])
    pending = torch.isfinite(step).all(-1)
    for _ in range(SHORTENINGS):
        trial = torch.where(pending[..., None], block.control_set.project(block.current + length * step), best)
        value = block.value(trial, penalty)
        good = pending & (value > 0) & torch.isfinite(value)
        best, gain = torch.where(good[..., None], trial, best), torch.where(good, value, gain)
        pending = pending & ~good
        if not bool(pending.any()):
            break
        length = length / 3.0
    return keep_best(block, best, gain, memory)


def bounds_of(block: HamiltonianBlock) -> tuple[Tensor, Tensor]:
    """Bounds of the controls (K, G, m)."""
    bounds = block.control_set.bounds(block.current)
    assert bounds is not None  # maximize has checked it
    return bounds


def concave_part(hessian: Tensor) -> Tensor:
    """The positive semidefinite part of −∂²H/∂u² (K, G, m, m); zero where it is not finite."""
    finite = torch.isfinite(hessian).all(-1).all(-1)[..., None, None]
    values, vectors = torch.linalg.eigh(-torch.where(finite, hessian, 0.0))
    part: Tensor = (vectors * values.clamp_min(0.0)[..., None, :]) @ vectors.mT
    return part


class _Products:
    """Products of the Gauss–Newton matrix at the current control with vectors (K, G, m)."""

    def __init__(self, block: HamiltonianBlock, penalty: Penalty) -> None:
        self.block, self.penalty = block, penalty
        with torch.enable_grad():
            self.u, x = leaf(block.current), leaf(block.x)
            points = self.u.unsqueeze(-3).expand(*block.x.shape[:2], *self.u.shape[-2:])
            rates = block.rates(x, points)
            maps = [(rates[..., : block.state_components], penalty.rho_f)]
            if bool((penalty.rho_q != 0).any()) and not block.constant_input:
                value = (block.sensitivity * rates).sum(-1)
                maps.append((gradients(value, (x,), create_graph=True)[0], penalty.rho_q))
            self.maps = []
            for outputs, rho in maps:
                dual = leaf(torch.zeros_like(outputs))
                (pulled,) = gradients(outputs, (self.u,), dual, create_graph=True)
                self.maps.append((outputs, rho, dual, pulled))
        self.share = block.points[:, None, None] / (block.x.shape[2] if block.groups == 1 else 1)

    def apply(self, vector: Tensor) -> Tensor:
        """(ρ⟨FᵀF⟩ + ρ⟨QᵀQ⟩) vector."""
        total = torch.zeros_like(vector)
        for outputs, rho, dual, pulled in self.maps:
            (pushed,) = gradients(pulled, (dual,), vector, retain_graph=True)
            (back,) = gradients(outputs, (self.u,), self.share * pushed, retain_graph=True)
            total = total + rho[:, None] * back
        return total

    def diagonal(self) -> Tensor:
        """Diagonal (K, G, m), estimated with one vector of random signs."""
        generator = torch.Generator().manual_seed(0)  # the global one belongs to the user
        signs = 2.0 * torch.randint(2, self.u.shape, generator=generator).to(self.u) - 1.0
        return (signs * self.apply(signs)).detach()

    def mean_diagonal(self) -> Tensor:
        """Mean diagonal (K, G)."""
        return self.diagonal().mean(-1).clamp_min(0.0)
