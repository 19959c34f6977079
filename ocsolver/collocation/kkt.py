"""The Newton system of the collocated maximum principle: stages are eliminated, the nodes form one banded system."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import LinAlgError, solve_banded

from ocsolver.collocation.tableau import Tableau

__all__ = ["Direction", "Ends", "directions", "newton_direction"]

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


def directions(
    active: Array,
    tableau: Tableau,
    h: Array,
    hessian: Array,
    state: Array,
    control: Array,
    right: tuple[Array, Array, Array],
    gaps: tuple[Array, Array],
    ends: Ends,
) -> Direction | None:
    """`newton_direction` of the groups that are active (G,) and finite, zero for the others; None if there is none."""
    G = h.shape[1]
    inside = (hessian, state, control, *right)
    finite = np.isfinite(sum(part.sum((0, 1, *range(3, part.ndim))) for part in inside))
    rows = np.flatnonzero(active & finite & np.isfinite(ends.end_right.sum(-1)))
    if len(rows) == G:
        return newton_direction(tableau, h, hessian, state, control, right, gaps, ends)
    if not len(rows):
        return None
    hessian, state, control, *rest = (part[:, :, rows] for part in inside)
    found = newton_direction(
        tableau,
        h[:, rows],
        hessian,
        state,
        control,
        (rest[0], rest[1], rest[2]),
        (gaps[0][:, rows], gaps[1][:, rows]),
        Ends(*(part[rows] for part in ends)),
    )
    if found is None:
        return None
    whole = []
    for part in found:
        full = np.zeros((*part.shape[:-2], G, part.shape[-1]))
        full[..., rows, :] = part
        whole.append(full)
    return Direction(*whole)


def newton_direction(
    tableau: Tableau,
    h: Array,
    hessian: Array,
    state: Array,
    control: Array,
    right: tuple[Array, Array, Array],
    gaps: tuple[Array, Array],
    ends: Ends,
) -> Direction | None:
    """Solve the Newton system; None if it is singular.

    With W the Hessian, the rows of an interval are

    * h (W_xx dX + W_xu dU − f_xᵀ dP) + Σ β_ij dP_j − (d_i/b_i) dq⁺ = right_x,
    * W_ux dX + W_uu dU − f_uᵀ dP = right_u,
    * Σ α_ij (dX_j − dx) − h (f_x dX + f_u dU) = right_p,
    * dx⁺ − (1 − Σd) dx − Σ d_j dX_j = gap_x,  dq − (1 − Σd) dq⁺ − Σ b_i α_i dP_i = gap_q.

    Parameters
    ----------
    tableau : Tableau
        Coefficients.
    h : ndarray, shape (N, G)
        Lengths of the intervals.
    hessian : ndarray, shape (N, s, G, v + m, v + m)
        W.
    state, control : ndarray, shapes (N, s, G, v, v) and (N, s, G, v, m)
        f_x and f_u.
    right : tuple of ndarray, shapes (N, s, G, v), (N, s, G, m), (N, s, G, v)
        Right-hand sides of the stages.
    gaps : tuple of ndarray, shapes (N, G, v)
        Right-hand sides of the nodes.
    ends : Ends
        Boundary conditions.

    Returns
    -------
    Direction or None
        The step.
    """
    s, v, m = tableau.s, state.shape[-1], control.shape[-1]
    solved = _eliminate(tableau, h, hessian, state, control, right)  # (N, G, S, 1 + 2v)
    if solved is None:
        return None
    N, G = h.shape
    X = solved[:, :, : s * v].reshape(N, G, s, v, -1)
    P = solved[:, :, s * (v + m) :].reshape(N, G, s, v, -1)
    ahead, back = np.einsum("j,ngjvc->ngvc", tableau.d, X), np.einsum("j,ngjvc->ngvc", tableau.b * tableau.row, P)
    rest = 1.0 - tableau.d.sum()
    eye = rest * np.eye(v)
    chain = _Chain(
        ahead[..., 1 : 1 + v] + eye,
        ahead[..., 1 + v :],
        ahead[..., 0] + gaps[0],
        back[..., 1 : 1 + v],
        back[..., 1 + v :] + eye,
        back[..., 0] + gaps[1],
    )
    found = _solve_chain(chain, ends)
    if found is None:
        return None
    nodes, costates, multipliers = found  # (N + 1, G, v) twice, (G, e)
    inputs = np.concatenate((np.ones((N, G, 1)), nodes[:-1], costates[1:]), -1)
    local = (solved @ inputs[..., None])[..., 0]  # (N, G, S)
    parts = np.split(local, [s * v, s * (v + m)], axis=-1)
    x, u, p = (part.reshape(N, G, s, -1).swapaxes(1, 2) for part in parts)
    return Direction(x, u, p, nodes, costates, multipliers)


def _eliminate(
    tableau: Tableau, h: Array, hessian: Array, state: Array, control: Array, right: tuple[Array, Array, Array]
) -> Array | None:
    """Stages as functions of (dx_k, dq_{k+1}): (N, G, S, 1 + 2v), S = s (2v + m)."""
    s, (N, G), v, m = tableau.s, h.shape, state.shape[-1], control.shape[-1]
    S, eye = s * (2 * v + m), np.eye(v)
    matrix = np.zeros((N, G, S, S))
    columns = np.zeros((N, G, S, 1 + 2 * v))
    first_u, first_p = s * v, s * (v + m)
    step = h[..., None, None]
    matrix[..., :first_u, first_p:], matrix[..., first_p:, :first_u] = _couplings(tableau, v)
    for i in range(s):
        X = slice(i * v, (i + 1) * v)
        U = slice(first_u + i * m, first_u + (i + 1) * m)
        P = slice(first_p + i * v, first_p + (i + 1) * v)
        W, fx, fu = hessian[:, i], state[:, i], control[:, i]
        matrix[..., X, X] = step * W[..., :v, :v]
        matrix[..., X, U] = step * W[..., :v, v:]
        matrix[..., U, X] = W[..., v:, :v]
        matrix[..., U, U] = W[..., v:, v:]
        matrix[..., X, P] -= step * fx.swapaxes(-1, -2)
        matrix[..., U, P] = -fu.swapaxes(-1, -2)
        matrix[..., P, X] -= step * fx
        matrix[..., P, U] = -step * fu
        columns[..., X, 0], columns[..., U, 0], columns[..., P, 0] = (part[:, i] for part in right)
        columns[..., X, 1 + v :] = tableau.d[i] / tableau.b[i] * eye
        columns[..., P, 1 : 1 + v] = tableau.row[i] * eye
    try:
        solved = np.linalg.solve(matrix, columns)
    except np.linalg.LinAlgError:
        return None
    return solved if np.isfinite(solved).all() else None


@cache
def _couplings(tableau: Tableau, v: int) -> tuple[Array, Array]:
    """β ⊗ 1 and α ⊗ 1 (s v, s v)."""
    return np.kron(tableau.adjoint, np.eye(v)), np.kron(tableau.alpha, np.eye(v))


class _Chain(NamedTuple):
    """dx_{k+1} = E dx_k + F dq_{k+1} + r and dq_k = Q dx_k + R dq_{k+1} + t, each (N, G, v, v) or (N, G, v)."""

    E: Array
    F: Array
    r: Array
    Q: Array
    R: Array
    t: Array


class _Layout(NamedTuple):
    """Where the entries of the banded system stand: rows and columns (entries,), and its widths."""

    rows: Array
    columns: Array
    below: int
    above: int


@cache
def _layout(N: int, v: int, e: int) -> _Layout:
    """Layout for N intervals, v states and e end constraints, in the order in which `_solve_chain` fills it.

    Unknowns are x_0, q_0, x_1, q_1, …, ν; equations the start, the intervals, the end.
    """
    i, k, c = np.arange(v), np.arange(N)[:, None], np.arange(e)
    top, last, x_end = v + 2 * v * k, v + 2 * v * N, 2 * v * N
    square = (N, v, v)
    row = np.broadcast_to((top + i)[:, :, None], square)
    column = np.broadcast_to((2 * v * k + i)[:, None], square)
    places = [
        (i, i),
        (i, v + i),
        (row, column),
        (row, column + 3 * v),
        (row + v, column),
        (row + v, column + 3 * v),
        (top + i, 2 * v * (k + 1) + i),
        (top + v + i, 2 * v * k + v + i),
        (last + i, x_end + v + i),
        (np.broadcast_to(last + i[:, None], (v, v)), np.broadcast_to(x_end + i, (v, v))),
        (np.broadcast_to(last + i[:, None], (v, e)), np.broadcast_to(x_end + 2 * v + c, (v, e))),
        (np.broadcast_to(last + v + c[:, None], (e, v)), np.broadcast_to(x_end + i, (e, v))),
        (last + v + c, x_end + 2 * v + c),
    ]
    rows, columns = (np.concatenate([np.ravel(pair[axis]) for pair in places]) for axis in (0, 1))
    return _Layout(rows, columns, max(3 * v - 1, 2 * v + e - 1), max(3 * v - 1, v + e - 1))


def _solve_chain(chain: _Chain, ends: Ends) -> tuple[Array, Array, Array] | None:
    """Nodes (N + 1, G, v), costates (N + 1, G, v) and multipliers (G, e), all groups in one banded system."""
    N, G, v, _ = chain.E.shape
    e = ends.slack.shape[-1]
    size = 2 * v * (N + 1) + e
    rows, columns, below, above = _layout(N, v, e)
    blocks = [-block.transpose(0, 2, 3, 1).reshape(-1, G) for block in (chain.E, chain.F, chain.Q, chain.R)]
    values = (
        ends.start_x.T,
        ends.start_q.T,
        *blocks,
        np.ones(((2 * N + 1) * v, G)),
        ends.hessian.transpose(1, 2, 0).reshape(-1, G),
        ends.jacobian.transpose(2, 1, 0).reshape(-1, G),
        ends.jacobian.transpose(1, 2, 0).reshape(-1, G),
        -ends.slack.T,
    )
    band = np.zeros((below + above + 1, G, size))
    band[above + rows - columns, :, columns] = np.concatenate(values)
    middle = np.concatenate((chain.r, chain.t), -1).transpose(1, 0, 2).reshape(G, -1)
    right = np.concatenate((ends.start_right, middle, ends.end_right, ends.constraint_right), -1)
    try:
        flat = solve_banded(
            (below, above), band.reshape(len(band), -1), right.reshape(-1), overwrite_ab=True, overwrite_b=True
        )
    except (LinAlgError, ValueError):
        return None
    if not np.isfinite(flat).all():
        return None
    solution = flat.reshape(G, size)
    pairs = solution[:, : 2 * v * (N + 1)].reshape(G, N + 1, 2, v)
    return pairs[:, :, 0].swapaxes(0, 1), pairs[:, :, 1].swapaxes(0, 1), solution[:, 2 * v * (N + 1) :]
