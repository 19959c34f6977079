"""Structured Gauss–Newton systems of affine layers: damping, exact rows, the Kronecker sum; it knows no block."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ocsolver.affine import AffineView, LinearView
from ocsolver.hamiltonian import Penalty

__all__ = [
    "Curvature",
    "affine_form",
    "curvature_of",
    "damped",
    "damped_factor",
    "finite",
    "kronecker",
    "rows",
    "tiny",
    "whitening",
]

ROW_ENTRIES = 2_000_000  # multiplications per sample up to which the Gram matrix of every row is formed

Linear = Callable[[Tensor], Tensor]


def damped(matrix: Tensor, damping: float, shift: Tensor | float = 0.0) -> Tensor:
    """A positive semidefinite matrix (*l, a, a), damped relative to its mean diagonal, and shifted."""
    mean = matrix.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    return matrix + (shift + damping * mean + tiny(matrix)) * eye


def damped_factor(matrix: Tensor, damping: float) -> Tensor:
    """Cholesky factor of a damped matrix (*l, a, a)."""
    factor: Tensor = torch.linalg.cholesky_ex(damped(matrix, damping))[0]
    return factor


class Curvature(NamedTuple):
    """Averages of affine layers, from which a step is computed; `rows` or the others are None."""

    rows: Tensor | None  # (K, r, a, a)
    inputs: Tensor | None  # A (K, a, a)
    slopes: Tensor | None  # ⟨s²⟩ (K, r)
    sensitivities: Tensor  # B (K, r, r)


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


def rows(view: AffineView, curvature: Curvature, penalty: Penalty, damping: float) -> Linear:
    """(ρ⟨s_j² x̃x̃ᵀ⟩ + ρ⟨y_j²⟩ on the weights + damping) dΘ_j = g_j, for all rows of all layers: (K, r, a)."""
    assert curvature.rows is not None
    rho_f, rho_q, epsilon = penalty  # (1,) each
    matrix = rho_f * curvature.rows
    diagonal = matrix.diagonal(dim1=-2, dim2=-1)  # a view (K, r, a)
    diagonal[..., : view.width] += (rho_q * curvature.sensitivities.diagonal(dim1=-2, dim2=-1))[..., None]
    diagonal += damping * diagonal.mean((-2, -1), keepdim=True) + 2.0 * epsilon + tiny(matrix)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky_ex(matrix)[0])
    return lambda gradient: torch.einsum("krab,...krb->...kra", inverse, gradient)


def kronecker(view: AffineView, curvature: Curvature, penalty: Penalty, damping: float) -> Linear:
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
