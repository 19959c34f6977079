"""Gauss–Newton steps on the augmented Hamiltonian: dense, matrix-free, and structured for affine layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ocsolver._autodiff import gradients, leaf
from ocsolver.affine import AffineView, LinearView, Shape
from ocsolver.errors import InputError, complaint
from ocsolver.hamiltonian import HamiltonianBlock, Penalty
from ocsolver.maximizers.base import Maximizer, Maximum, keep_best, unsupported
from ocsolver.maximizers.default import second_order
from ocsolver.maximizers.newton import LONGEST, bounded_step

__all__ = ["GaussNewton"]

SHORTENINGS = 8  # of a step that does not ascend, each to a third
CG_ITERATIONS = 20
CG_ACCURACY = 0.05  # of the residual of the linear system
LONGEST_PAUSE = 50  # mini-batches between two updates of averages
DECAY = 0.9  # of averages, per update
CAUTION = 0.5  # share of the uncertainty of averages that damps them
INVERSE_COLUMNS = 600  # up to which A is inverted; a larger factor is cheaper to solve with than to invert
ROW_ENTRIES = 2_000_000  # multiplications per sample up to which the Gram matrix of every row is formed


Linear = Callable[[Tensor], Tensor]


class Curvature(NamedTuple):
    """Averages of affine layers, from which a step is computed; `rows` or the others are None."""

    rows: Tensor | None  # (K, r, a, a)
    inputs: Tensor | None  # A (K, a, a)
    slopes: Tensor | None  # ⟨s²⟩ (K, r)
    sensitivities: Tensor  # B (K, r, r)


class Average(NamedTuple):
    """A = ⟨x̃x̃ᵀ⟩ and ⟨s²⟩ of affine layers, averaged over mini-batches without bias, and what is made of them."""

    steps: int
    due: int  # step of the next update
    weight: float  # that the averages have gathered
    shape: tuple[int, int, bool]  # of Θ
    inputs: Tensor  # (K, a, a)
    slopes: Tensor  # (K, r)
    factor: Tensor  # (A + damping)⁻¹, or its Cholesky factor where a is large (K, a, a)
    inverse_slopes: Tensor  # K⁻¹, damped (K, r, 1)

    @classmethod
    def start(cls, view: AffineView) -> Average:
        """Nothing gathered yet."""
        none = view.inputs.new_zeros(())
        return cls(0, 0, 0.0, view.shape.plain, none, none, none, none)

    def update(self, view: AffineView, damping: float) -> Average:
        """Averages with another batch, and when the next one is due."""
        weight = DECAY * self.weight + (1.0 - DECAY)
        inputs = DECAY * self.inputs + (1.0 - DECAY) * finite(view.gram(estimate=True))
        slopes = DECAY * self.slopes + (1.0 - DECAY) * finite(view.slope_square())
        damping = against_noise(damping, weight, view.columns / view.samples)
        factor = damped_factor(inputs / weight, damping)
        factor = torch.cholesky_inverse(factor) if factor.shape[-1] <= INVERSE_COLUMNS else factor
        inverse_slopes = whitening(slopes / weight, damping).square()
        return Average(
            self.steps, next_due(self.steps), weight, view.shape.plain, inputs, slopes, factor, inverse_slopes
        )

    def step(self, slope: Tensor) -> Tensor:
        """Step for ρ = 1 from ∂H/∂u (K, 1, m)."""
        shape = Shape(*self.shape)
        gradient = self.inverse_slopes * shape.matrix(slope[:, 0])
        inverted = self.factor.shape[-1] <= INVERSE_COLUMNS
        step = gradient @ self.factor if inverted else torch.cholesky_solve(gradient.mT, self.factor).mT
        return shape.vector(step).unsqueeze(1)


class DenseAverage(NamedTuple):
    """⟨FᵀF⟩ + ⟨QᵀQ⟩ of other layers with few parameters, averaged like the above."""

    steps: int
    due: int
    weight: float
    matrix: Tensor  # (K, G, m, m)
    factor: Tensor  # Cholesky factor, damped

    @classmethod
    def start(cls, block: HamiltonianBlock) -> DenseAverage:
        """Nothing gathered yet."""
        none = block.current.new_zeros(())
        return cls(0, 0, 0.0, none, none)

    def update(self, block: HamiltonianBlock, damping: float) -> DenseAverage:
        """Averages with another batch, and when the next one is due."""
        expansion, weight = block.current_expansion, DECAY * self.weight + (1.0 - DECAY)
        matrix = DECAY * self.matrix + (1.0 - DECAY) * finite(expansion.state_gram + expansion.costate_gram)
        factor = damped_factor(matrix / weight, against_noise(damping, weight, matrix.shape[-1] / block.x.shape[2]))
        return DenseAverage(self.steps, next_due(self.steps), weight, matrix, factor)

    def step(self, slope: Tensor) -> Tensor:
        """Step for ρ = 1 from ∂H/∂u (K, 1, m)."""
        return torch.cholesky_solve(slope[..., None], self.factor)[..., 0]


def against_noise(damping: float, weight: float, columns: float) -> float:
    """Damping on mini-batches: not below the uncertainty of the averages.

    The eigenvalues of a Gram matrix with a columns from B samples have relative errors of about √(a / B) (Marchenko and
    Pastur); `columns` is a / B of a batch, and averages with this weight have gathered some more of them.
    """
    batches = (1.0 + DECAY) / (1.0 - DECAY) * weight / (2.0 - weight)
    return damping + CAUTION * math.sqrt(columns / batches)


def next_due(steps: int) -> int:
    """Step of the next update: the pauses grow with the number of steps."""
    return steps + min(steps + 1, LONGEST_PAUSE)


def damped(matrix: Tensor, damping: float, shift: Tensor | float = 0.0) -> Tensor:
    """A positive semidefinite matrix (*l, a, a), damped relative to its mean diagonal, and shifted."""
    mean = matrix.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    return matrix + (shift + damping * mean + tiny(matrix)) * eye


def damped_factor(matrix: Tensor, damping: float) -> Tensor:
    """Cholesky factor of a damped matrix (*l, a, a)."""
    factor: Tensor = torch.linalg.cholesky_ex(damped(matrix, damping))[0]
    return factor


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
        return block.layered and block.groups == 1 and (block.view is not None or second_order(block))

    def sampled_step(self, block: HamiltonianBlock, memory: dict[str, Any] | None) -> tuple[Tensor, dict[str, Any]]:
        average: Average | DenseAverage
        if block.view is None:
            average = DenseAverage.start(block) if memory is None else DenseAverage(**memory)
            average = average.update(block, self.damping) if average.steps >= average.due else average
        else:
            average = Average.start(block.affine) if memory is None else Average(**memory)  # type: ignore[arg-type]
            if average.steps >= average.due:
                average = average.update(block.affine, self.damping)  # type: ignore[arg-type]
        return average.step(block.current_slope), average._replace(steps=average.steps + 1)._asdict()

    def inverse(self, block: HamiltonianBlock) -> Linear:
        """The damped inverse of the Gauss–Newton matrix for ρ = 1 as a linear map, perhaps estimated from some samples.

        Parameters
        ----------
        block : HamiltonianBlock
            A block of layers without bounds.

        Returns
        -------
        callable
            (K, 1, m) -> (K, 1, m); times 1/ρ it is the inverse for another ρ.
        """
        penalty = Penalty.uniform(torch.ones_like(block.current[0, :, 0]))
        form = self._form(block)
        if form in AFFINE_FORMS:
            return self._structured(block, form, penalty, estimate=True)
        if form == "dense":
            factor, _ = torch.linalg.cholesky_ex(self._dense_matrix(block, penalty))
            return lambda slope: torch.cholesky_solve(slope[..., None], factor)[..., 0]
        diagonal = finite(_Products(block, penalty).diagonal()).clamp_min(0.0)
        mean = diagonal.mean(-1, keepdim=True)
        half = 0.5 * (diagonal + mean)  # the estimate is noisy: half of it is its mean
        scale = half + self.damping * mean + tiny(mean)
        return lambda slope: slope / scale

    def _structured(self, block: HamiltonianBlock, form: str, penalty: Penalty, *, estimate: bool = False) -> Linear:
        """The damped inverse for a block of affine layers."""
        view = block.affine
        assert view is not None
        solver_of = _rows if form == "rows" else _kronecker
        curvature, shape = curvature_of(view, form, estimate=estimate), view.shape
        solve = solver_of(view, curvature, penalty, self.damping)
        return lambda slope: shape.vector(solve(shape.matrix(slope[:, 0]))).unsqueeze(1)

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


def tiny(like: Tensor) -> float:
    """A number that keeps a zero matrix invertible."""
    return math.sqrt(torch.finfo(like.dtype).tiny)


def finite(values: Tensor) -> Tensor:
    """Values, zero where they are not finite: such rows have no finite gradient either, and stay."""
    return torch.nan_to_num(values, 0.0, 0.0, 0.0)


def whitening(slopes: Tensor, damping: float) -> Tensor:
    """K^{-1/2}, damped (K, r, 1)."""
    return (slopes + damping * slopes.mean(-1, keepdim=True) + tiny(slopes)).rsqrt()[..., None]


def affine_form(view: AffineView) -> str:
    """Rows where their Gram matrices are cheap, else the Kronecker sum."""
    small = view.rows * view.columns**2 <= ROW_ENTRIES // max(1, view.inputs.shape[0])
    return "rows" if isinstance(view, LinearView) and small else "kronecker"


def curvature_of(view: AffineView, form: str, *, estimate: bool = False) -> Curvature:
    """Averages that a form needs; an estimate may leave samples out."""
    y = finite(view.sensitivity_gram())
    if form == "rows":
        return Curvature(finite(view.row_gram(estimate=estimate)), None, None, y)
    a, slopes = finite(view.gram(estimate=estimate)), finite(view.slope_square())
    return Curvature(None, a, slopes, torch.zeros_like(y) if form == "inputs" else y)


def _rows(view: AffineView, curvature: Curvature, penalty: Penalty, damping: float) -> Linear:
    """(ρ⟨s_j² x̃x̃ᵀ⟩ + ρ⟨y_j²⟩ on the weights + damping) dΘ_j = g_j, for all rows of all layers: (K, r, a)."""
    assert curvature.rows is not None
    rho_f, rho_q, epsilon = penalty  # (1,) each
    diagonal = curvature.sensitivities.diagonal(dim1=-2, dim2=-1)[..., None].expand(*curvature.rows.shape[:-1])
    if view.bias:
        diagonal = torch.cat((diagonal[..., :-1], torch.zeros_like(diagonal[..., :1])), -1)
    mean = (rho_f * curvature.rows.diagonal(dim1=-2, dim2=-1) + rho_q * diagonal).mean((-2, -1), keepdim=True)
    shift = rho_q * diagonal + 2.0 * epsilon + damping * mean + tiny(diagonal)
    factor, _ = torch.linalg.cholesky_ex(rho_f * curvature.rows + torch.diag_embed(shift))
    inverse = torch.cholesky_inverse(factor)
    return lambda gradient: (inverse @ gradient[..., None])[..., 0]


def _kronecker(view: AffineView, curvature: Curvature, penalty: Penalty, damping: float) -> Linear:
    """ρ K dΘ A + ρ B [dW 0] + ε K dΘ = g, a generalized Sylvester equation (K, r, a).

    The bias is eliminated, both sides are whitened by K, and what is left is diagonal between the eigenvectors of the
    two factors. The damping ε is relative to the mean diagonal of A and of B, both whitened.
    """
    assert curvature.inputs is not None
    assert curvature.slopes is not None
    rho_f, rho_q, epsilon = penalty  # (1,) each
    slopes = curvature.slopes
    root = whitening(slopes, damping)
    a = curvature.inputs
    b = root * curvature.sensitivities * root.mT
    mean = rho_f * a.diagonal(dim1=-2, dim2=-1).mean(-1) + rho_q * b.diagonal(dim1=-2, dim2=-1).mean(-1)
    shift = (damping * mean + 2.0 * epsilon + tiny(a))[:, None, None]  # (K, 1, 1)
    if view.bias:
        column, corner = rho_f * a[..., :-1, -1:], rho_f * a[..., -1:, -1:] + shift
        a = a[..., :-1, :-1] - column @ column.mT / (corner * rho_f.clamp_min(tiny(a)))
    values_b, vectors_b = torch.linalg.eigh(b)
    values_a, vectors_a = torch.linalg.eigh(a)
    spectrum = rho_f * values_a.clamp_min(0.0)[..., None, :] + rho_q * values_b.clamp_min(0.0)[..., :, None] + shift

    def solve(gradient: Tensor) -> Tensor:
        right = root * gradient
        if view.bias:
            right, last = right[..., :-1] - right[..., -1:] @ (column / corner).mT, right[..., -1:] / corner
        step: Tensor = vectors_b @ ((vectors_b.mT @ right @ vectors_a) / spectrum) @ vectors_a.mT
        if view.bias:
            step = torch.cat((step, last - step @ (column / corner)), -1)
        return root * step

    return solve


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
