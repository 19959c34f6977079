"""Many Van der Pol problems (A15) from different initial states: one batch of ours, a loop over CasADi solvers."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

import ocsolver as oc
from scripts._peers_ours import control_of, problem_of
from scripts._peers_problems import STATEMENTS
from scripts._peers_protocol import ACCURACY, processor_time, quiet
from scripts._peers_resimulate import resimulate

__all__ = ["initial_states", "loop_over_casadi", "one_batch"]

STATEMENT = next(statement for statement in STATEMENTS if statement.id == "A15")
SAMPLE = 20  # problems whose cost is simulated anew
SEED = 0
TRANSCRIPTIONS = (
    ("fatrop", "rk4", 3, (100, 200, 400, 800)),
    ("fatrop", "legendre", 5, (80, 160, 320)),
    ("ipopt", "radau", 5, (160, 320)),
)


def initial_states(count: int) -> np.ndarray:
    """Normal around the state of the statement, deviation 0.3; shape (count, 2)."""
    normal = np.random.default_rng(SEED).standard_normal((count, 2))
    return np.asarray(STATEMENT.start) + 0.3 * normal


def optima(states: np.ndarray) -> list[float]:
    """Costs of the sample by a mesh far finer than needed, simulated anew."""
    casadi = importlib.import_module("scripts._peers_casadi")
    stage = casadi.collocation(STATEMENT, 5, "radau")
    solver = casadi.Solver(STATEMENT, stage, 800, "ipopt")
    before, _ = solver.solve(STATEMENT.start)
    costs = []
    for state in states:
        _, answer = solver.solve(state, before)
        costs.append(resimulate(STATEMENT, answer.control(), state.tolist()).cost)
    return costs


def worst(controls: Sequence[Any], states: np.ndarray, known: Sequence[float]) -> float:
    """Largest error of the re-simulated costs."""
    costs = [resimulate(STATEMENT, c, state.tolist()).cost for c, state in zip(controls, states, strict=True)]
    return max(abs(cost - best) / max(1.0, abs(best)) for cost, best in zip(costs, known, strict=True))


def loop_over_casadi(count: int, sample: int = SAMPLE) -> dict[str, Any]:
    """Problems per processor second of the fastest prebuilt solver whose sample is right to 1e-6.

    One problem after the other; the initial state is the parameter of the solver. Every transcription is tried with
    three starts: its own first guess, the solution of the nominal problem, and this solution with its multipliers and
    a small barrier parameter.
    """
    casadi = importlib.import_module("scripts._peers_casadi")
    states = initial_states(count)
    with quiet():
        known = optima(states[:sample])
        tried: dict[str, dict[str, Any]] = {}
        for plugin, scheme, degree, meshes in TRANSCRIPTIONS:
            found = suitable(casadi, (plugin, scheme, degree), meshes, states[:sample], known)
            tried.update(found)
        good = {name: entry for name, entry in tried.items() if entry["error"] <= ACCURACY}
        if not good:
            return {"tried": {name: without_solver(entry) for name, entry in tried.items()}}
        name, best = min(good.items(), key=lambda item: item[1]["seconds"])
        begin = processor_time()
        for state in states:
            best["solve"](state)
        seconds = processor_time() - begin
    return {
        "name": name,
        "count": count,
        "seconds": seconds,
        "per_second": count / seconds,
        "error": best["error"],
        "optima": known,
        "tried": {name: without_solver(entry) for name, entry in tried.items()},
    }


def without_solver(entry: dict[str, Any]) -> dict[str, Any]:
    """What JSON can hold."""
    return {key: value for key, value in entry.items() if key != "solve"}


def suitable(
    casadi: Any, way: tuple[str, str, int], meshes: Sequence[int], states: np.ndarray, known: Sequence[float]
) -> dict[str, dict[str, Any]]:
    """The first mesh that is accurate enough, with each of the three starts: seconds per problem and error."""
    plugin, scheme, degree = way
    for mesh in meshes:
        stage = casadi.Casadi("", plugin, scheme, degree, ()).stage(STATEMENT)
        plain, warm = (casadi.Solver(STATEMENT, stage, mesh, plugin, warm=kind, expand=True) for kind in (False, True))
        before, _ = plain.solve(STATEMENT.start)
        starts: dict[str, Callable[[Any], Any]] = {
            "first guess": partial(plain.solve, before=None),
            "nominal solution": partial(plain.solve, before=before),
            "nominal, warm": partial(warm.solve, before=before),
        }
        entries: dict[str, dict[str, Any]] = {}
        for label, solve in starts.items():
            begin = processor_time()
            answers = [solve(state)[1] for state in states]
            seconds = (processor_time() - begin) / len(states)
            error = worst([answer.control() for answer in answers], states, known)
            entries[f"{plugin} {scheme} {degree}, N = {mesh}, {label}"] = {
                "seconds": seconds,
                "error": error,
                "solve": solve,
            }
        if any(entry["error"] <= ACCURACY for entry in entries.values()) or mesh == meshes[-1]:
            return entries
    return {}


def one_batch(count: int, known: Sequence[float]) -> dict[str, Any]:
    """Problems per processor second of one call of `oc.solve`.

    At the loosest tolerance that certifies 1e-6 for every problem; `known` are optima of the first problems, against
    which their re-simulated costs are held.
    """
    states = initial_states(count)
    problem = problem_of(STATEMENT, torch.as_tensor(states))
    entry: dict[str, Any] = {}
    for exponent in (6, 7, 8, 9):
        with quiet():
            begin = processor_time()
            solution = oc.solve(problem, oc.Collocation(), tolerance=10.0**-exponent, max_seconds=300.0)
            seconds = processor_time() - begin
            certificate = solution.certificate
            certifying = processor_time() - begin - seconds
        costs = solution.cost.abs().clamp_min(1.0)
        gap = certificate.mean_gap * float(solution.t[-1, 0] - solution.t[0, 0])
        certified = float((torch.maximum(certificate.cost_error, gap) / costs).max())
        entry = {
            "count": count,
            "seconds": seconds,
            "per_second": count / seconds,
            "seconds_of_certificate": certifying,
            "tolerance": 10.0**-exponent,
            "certified": certified,
            "converged": float(solution.success.double().mean()),
            "error": certified,
        }
        if known:
            controls = [control_of(solution, group) for group in range(len(known))]
            entry["error"] = worst(controls, states[: len(known)], known)
        if certified <= ACCURACY and entry["error"] <= ACCURACY:
            break
    return entry
