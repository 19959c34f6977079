"""The Newton system of the collocated maximum principle: stages are eliminated, the nodes form one banded system."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from scipy.linalg.lapack import dgbsv

from ocsolver.collocation.tableau import Tableau

try:
    from ocsolver.collocation import _compiled as compiled
except ImportError:  # there was no compiler
    compiled = None  # type: ignore[assignment]

__all__ = ["Direction", "Ends", "Linearized", "directions"]

Array = np.ndarray[Any, np.dtype[Any]]


class Ends(NamedTuple):
    """Linearized boundary conditions of G groups.

    Start: `start_x` dx_0 + `start_q` dq_0 = `start_right`. End: dq_N + `hessian` dx_N + `jacobian`ᵀ dν = `end_right`
    and `jacobian` dx_N − `slack` dν = `constraint_right`.
    """

    start_x: Array  # (G, v), diagonal
    start_q: Array  # (G, v), diagonal
    start_right: Array  # (G, v)
    hessian: Array  # (G, v, v)
    jacobian: Array  # (G, e, v)
    slack: Array  # (G, e)
    end_right: Array  # (G, v)
    constraint_right: Array  # (G, e)


class Direction(NamedTuple):
    """Solution of the Newton system."""

    x: Array  # (N, s, G, v), stages
    u: Array  # (N, s, G, m)
    p: Array  # (N, s, G, v)
    nodes: Array  # (N + 1, G, v)
    costates: Array  # (N + 1, G, v)
    multipliers: Array  # (G, e)


class Linearized(NamedTuple):
    """The equations of all intervals."""

    h: Array  # (N, G), lengths
    hessian: Array  # (N, s, G, v + m, v + m), W
    rates: Array  # (N, s, G, v, v + m), f_z
    right_z: Array  # (N, s, G, v + m)
    right_p: Array  # (N, s, G, v)
    gap_x: Array  # (N, G, v)
    gap_q: Array  # (N, G, v)

    def of(self, groups: Array) -> Linearized:
        """Those of some groups."""
        return Linearized(*(part[:, groups] if part.ndim < 4 else part[:, :, groups] for part in self))


def directions(active: Array, tableau: Tableau, inside: Linearized, ends: Ends) -> Direction | None:
    """Solve the Newton systems of the active groups; the others, and those that are no numbers, get a step of zero.

    With W the Hessian by z = (x, u), the rows of an interval are

    * h (W dZ − f_zᵀ dP) + (Σ β_ij dP_j − (d_i/b_i) dq⁺, 0) = right_z,
    * Σ α_ij (dX_j − dx) − h f_z dZ = right_p,
    * dx⁺ − (1 − Σd) dx − Σ d_j dX_j = gap_x,  dq − (1 − Σd) dq⁺ − Σ b_i α_i dP_i = gap_q.

    Parameters
    ----------
    active : Array
        Which groups are wanted (G,).
    tableau : Tableau
        Coefficients.
    inside : Linearized
        Equations of the intervals.
    ends : Ends
        Boundary conditions.

    Returns
    -------
    Direction or None
        The steps; None if a system is singular, or no group is left.

    Notes
    -----
    The part in C, where it was compiled, does the same with less overhead.
    """
    if compiled is not None:
        return _in_c(tableau, inside, ends, active)
    G = len(active)
    finite = np.isfinite(sum(part.sum((0, 1, *range(3, part.ndim))) for part in inside[1:5]))
    rows = np.flatnonzero(active & finite & np.isfinite(ends.end_right.sum(-1)))
    if len(rows) == G:
        return _in_numpy(tableau, inside, ends)
    if not len(rows):
        return None
    found = _in_numpy(tableau, inside.of(rows), Ends(*(part[rows] for part in ends)))
    if found is None:
        return None
    whole = []
    for part in found:
        full = np.zeros((*part.shape[:-2], G, part.shape[-1]))
        full[..., rows, :] = part
        whole.append(full)
    return Direction(*whole)


def _in_c(tableau: Tableau, inside: Linearized, ends: Ends, active: Array) -> Direction | None:
    """The solution by `_newton.c`."""
    (N, s, G, v, D), e = inside.rates.shape, ends.slack.shape[-1]
    found = Direction(
        np.empty((N, s, G, v)),
        np.empty((N, s, G, D - v)),
        np.empty((N, s, G, v)),
        np.empty((N + 1, G, v)),
        np.empty((N + 1, G, v)),
        np.empty((G, e)),
    )
    solved = compiled.solve(
        (tableau.alpha, tableau.adjoint, tableau.row, tableau.d, tableau.b),
        tuple(_packed(part, 2 if part.ndim == 5 else 1) for part in inside),
        tuple(_packed(part, part.ndim - 1) for part in ends),
        np.ascontiguousarray(active),
        tuple(found),
    )
    return found if solved else None


def _packed(array: Array, inner: int) -> Array:
    """An array whose last axes stand in memory without gaps."""
    if array.flags.c_contiguous:
        return array
    size = array.itemsize
    for axis in range(1, inner + 1):
        if array.strides[-axis] != size and array.shape[-axis] > 1:
            return np.ascontiguousarray(array)
        size *= array.shape[-axis]
    return array


def _in_numpy(tableau: Tableau, inside: Linearized, ends: Ends) -> Direction | None:
    """The solution by NumPy and LAPACK."""
    s, (N, G), v, D = tableau.s, inside.h.shape, inside.rates.shape[-2], inside.rates.shape[-1]
    solved = _eliminate(tableau, inside)  # (N, G, S, 1 + 2v)
    if solved is None:
        return None
    chain = _fixed(tableau, v, D - v).ahead @ solved  # (N, G, 2v, 1 + 2v)
    blocks = chain[..., 1:]
    np.subtract(_fixed(tableau, v, D - v).rest, blocks, out=blocks)
    chain[..., :v, 0] += inside.gap_x
    chain[..., v:, 0] += inside.gap_q
    found = _solve_chain(chain, ends)
    if found is None:
        return None
    nodes, costates, multipliers = found  # (N + 1, G, v) twice, (G, e)
    inputs = np.empty((N, G, 1 + 2 * v))
    inputs[..., 0], inputs[..., 1 : 1 + v], inputs[..., 1 + v :] = 1.0, nodes[:-1], costates[1:]
    local = np.einsum("ngrc,ngc->ngr", solved, inputs)
    z = local[..., : s * D].reshape(N, G, s, D).swapaxes(1, 2)
    p = local[..., s * D :].reshape(N, G, s, v).swapaxes(1, 2)
    return Direction(z[..., :v], z[..., v:], p, nodes, costates, multipliers)


def _eliminate(tableau: Tableau, inside: Linearized) -> Array | None:
    """Stages as functions of (dx_k, dq_{k+1}): (N, G, S, 1 + 2v), S = s (2v + m); first all dZ_i, then all dP_i."""
    s, (N, G), v, D = tableau.s, inside.h.shape, inside.rates.shape[-2], inside.rates.shape[-1]
    fixed, split, S = _fixed(tableau, v, D - v), s * D, s * (D + v)
    matrix, columns = np.empty((N, G, S, S)), np.empty((N, G, S, 1 + 2 * v))
    matrix[...], columns[...] = fixed.matrix, fixed.columns
    h = inside.h[..., None, None, None]

    def blocks(row: int, column: int, rows: int, columns: int) -> Array:
        """The blocks of all points on the diagonal of a part of the matrix: a view (N, G, s, rows, columns)."""
        steps = matrix.strides
        along = rows * steps[2] + columns * steps[3]
        offset = row * steps[2] + column * steps[3]
        return np.ndarray(
            (N, G, s, rows, columns), buffer=matrix, offset=offset, strides=(*steps[:2], along, *steps[2:])
        )

    slopes = h * inside.rates.swapaxes(1, 2)
    np.multiply(h, inside.hessian.swapaxes(1, 2), out=blocks(0, 0, D, D))
    blocks(0, split, D, v)[...] -= slopes.swapaxes(-1, -2)
    blocks(split, 0, v, D)[...] -= slopes
    columns[..., :split, 0].reshape(N, G, s, D)[...] = inside.right_z.swapaxes(1, 2)
    columns[..., split:, 0].reshape(N, G, s, v)[...] = inside.right_p.swapaxes(1, 2)
    try:
        solved = np.linalg.solve(matrix, columns)
    except np.linalg.LinAlgError:
        return None
    return solved if np.isfinite(solved.sum()) else None


class _Fixed(NamedTuple):
    """What a tableau alone determines: couplings of the stages, and how they act on the nodes."""

    matrix: Array  # (S, S)
    columns: Array  # (S, 1 + 2v), of 1, dx_k and dq_{k+1}
    ahead: Array  # (2v, S), from the stages to Σ d_j dX_j and Σ b_i α_i dP_i
    rest: Array  # (2v, 2v), −(1 − Σd) on the diagonal


@cache
def _fixed(tableau: Tableau, v: int, m: int) -> _Fixed:
    """Couplings for v states and m controls."""
    s, D = tableau.s, v + m
    S, split = s * (D + v), s * D
    matrix, columns, ahead = np.zeros((S, S)), np.zeros((S, 1 + 2 * v)), np.zeros((2 * v, S))
    x = (np.arange(s)[:, None] * D + np.arange(v)).ravel()  # where the states stand
    eye = np.eye(v)
    matrix[x, split:] = np.kron(tableau.adjoint, eye)
    matrix[split:, x] = np.kron(tableau.alpha, eye)
    columns[x, 1 + v :] = np.kron((tableau.d / tableau.b)[:, None], eye)
    columns[split:, 1 : 1 + v] = np.kron(tableau.row[:, None], eye)
    ahead[:v, x] = np.kron(tableau.d, eye)
    ahead[v:, split:] = np.kron(tableau.b * tableau.row, eye)
    return _Fixed(matrix, columns, ahead, (tableau.d.sum() - 1.0) * np.eye(2 * v))


class _Layout(NamedTuple):
    """Where the entries of a banded system stand in LAPACK's storage of it, column by column, and the constant ones."""

    template: Array  # (size · height,)
    chain: Array  # (N · 2v · 2v,)
    start_x: Array  # (v,)
    start_q: Array
    hessian: Array  # (v · v,)
    transposed: Array  # (v · e,), of the Jacobian
    jacobian: Array  # (e · v,)
    slack: Array  # (e,)
    below: int
    above: int


@cache
def _layout(N: int, v: int, e: int) -> _Layout:
    """Layout for N intervals, v states and e end constraints.

    Unknowns are x_0, q_0, x_1, q_1, …, ν; equations the start, the intervals, the end.
    """
    below, above = max(3 * v - 1, 2 * v + e - 1), max(3 * v - 1, v + e - 1)
    height, size = 2 * below + above + 1, 2 * v * (N + 1) + e
    i, k, c = np.arange(v), np.arange(N)[:, None], np.arange(e)
    top, last, x_end = v + 2 * v * k, v + 2 * v * N, 2 * v * N

    def place(row: Array, column: Array) -> Array:
        return np.asarray(column * height + below + above + row - column).ravel()

    both = np.arange(2 * v)
    block = place((top + both)[:, :, None], (2 * v * k + np.concatenate((i, 3 * v + i)))[:, None])
    ones = np.concatenate(
        (
            place(top + i, 2 * v * (k + 1) + i),
            place(top + v + i, 2 * v * k + v + i),
            place(last + i, x_end + v + i),
        )
    )
    template = np.zeros(size * height)
    template[ones] = 1.0
    return _Layout(
        template,
        block,
        place(i, i),
        place(i, v + i),
        place(last + i[:, None], x_end + i),
        place(last + i[:, None], x_end + 2 * v + c),
        place(last + v + c[:, None], x_end + i),
        place(last + v + c, x_end + 2 * v + c),
        below,
        above,
    )


def _solve_chain(chain: Array, ends: Ends) -> tuple[Array, Array, Array] | None:
    """Nodes (N + 1, G, v), costates (N + 1, G, v) and multipliers (G, e), all groups in one banded system.

    The chain (N, G, 2v, 1 + 2v) holds the rows dx_{k+1} − E dx_k − F dq_{k+1} = r and dq_k − Q dx_k − R dq_{k+1} = t:
    right-hand sides first, then what stands before (dx_k, dq_{k+1}).
    """
    N, G, v, e = len(chain), chain.shape[1], chain.shape[2] // 2, ends.slack.shape[-1]
    layout, size = _layout(N, v, e), 2 * v * (N + 1) + e
    band = np.empty((G, len(layout.template)))
    band[...] = layout.template
    band[:, layout.chain] = chain[..., 1:].swapaxes(0, 1).reshape(G, -1)
    band[:, layout.start_x], band[:, layout.start_q] = ends.start_x, ends.start_q
    band[:, layout.hessian] = ends.hessian.reshape(G, -1)
    right = np.empty((G, size))
    right[:, :v] = ends.start_right
    right[:, v : v + 2 * v * N].reshape(G, N, 2 * v)[...] = chain[..., 0].swapaxes(0, 1)
    right[:, v + 2 * v * N : 2 * v * (N + 1)] = ends.end_right
    if e:
        band[:, layout.jacobian] = ends.jacobian.reshape(G, -1)
        band[:, layout.transposed] = ends.jacobian.swapaxes(1, 2).reshape(G, -1)
        band[:, layout.slack] = -ends.slack
        right[:, 2 * v * (N + 1) :] = ends.constraint_right
    columns = band.reshape(G * size, -1).T  # as LAPACK wants it
    _, _, flat, info = dgbsv(layout.below, layout.above, columns, right.reshape(-1), overwrite_ab=1, overwrite_b=1)
    if info != 0 or not np.isfinite(flat.sum()):
        return None
    solution = flat.reshape(G, size)
    pairs = solution[:, : 2 * v * (N + 1)].reshape(G, N + 1, 2, v).transpose(2, 1, 0, 3)
    return pairs[0], pairs[1], solution[:, 2 * v * (N + 1) :]
