"""Reading what `Solution.save` wrote; files are data, nothing in them is executed."""

from __future__ import annotations

import ast
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ocsolver.adjoints import ContinuousAdjoint, DiscreteAdjoint
from ocsolver.errors import InputError, complaint
from ocsolver.integrators import RK4, Euler, Heun, SolveIVP, TorchDiffEq
from ocsolver.mesh import Mesh
from ocsolver.pieces import Pieces
from ocsolver.problem import OptimalControlProblem
from ocsolver.solution import FORMATS, History, Solution, Stats
from ocsolver.status import Status
from ocsolver.transcription import Discretization

__all__ = ["load"]


def load(
    path: str | Path, problem: OptimalControlProblem | None = None, *, integrator: Any = None, adjoint: Any = None
) -> Solution:
    """Read a solution written by `Solution.save`.

    Parameters
    ----------
    path : path-like
        The file.
    problem : OptimalControlProblem, optional
        Needed only to evaluate anew (state, costate, resimulate, certificate).
    integrator, adjoint : optional
        Used for evaluation anew; None means those of the run. Needed where these are not the library's own.

    Returns
    -------
    Solution
        With the stored data.

    Raises
    ------
    InputError
        If the file is not one of ours, or does not fit the problem.
    """
    target = Path(path)
    target = target if target.exists() or target.suffix == ".npz" else target.with_name(target.name + ".npz")
    try:
        # opened here, since numpy leaves a damaged file open
        with target.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            data = {name: archive[name] for name in archive.files}
        header = json.loads(str(data.pop("header")))
        if header["format"] not in FORMATS:
            raise KeyError("format")
        tensors = {name: torch.from_numpy(array) for name, array in data.items()}
        history = History(**{f.name: tensors[f"history_{f.name}"] for f in fields(History)})
        mesh = Mesh(tensors["mesh"]) if "mesh" in tensors else None
        core: dict[str, Any] = {name: tensors[name] for name in ("t", "x", "p", "u", "cost", "residual")}
        core |= {name: header[name] for name in ("notes", "solver", "shared_control")}
        core["status"] = [Status[name] for name in header["status"]]
        core["stats"] = Stats(**header["stats"])
        core |= {what: _events(header.get(what, [])) for what in ("switches", "singular", "minima")}
        core |= {what: _prefixed(tensors, what) for what in ("multipliers", "violations")}
        pieces = _prefixed(tensors, "pieces")
        core["pieces"] = Pieces(**pieces) if pieces else None
        plugins = {what: _revived(header[what]) for what in ("integrator", "adjoint")}
    except FileNotFoundError:
        raise
    except Exception as error:
        todo = "Pass a file written by Solution.save of this version."
        raise InputError(complaint(f"{path}", expected="a saved Solution", got=repr(error)[:120], todo=todo)) from error
    if problem is not None:
        _check_fit(problem, core)
    named = {"integrator": integrator, "adjoint": adjoint}
    chosen = {what: named[what] if named[what] is not None else plugins[what] for what in named}
    for what, plugin in chosen.items():
        if problem is not None and plugin is None and header[what] != "None":
            todo = f"Pass {what}= to oc.load."
            raise InputError(complaint(what, expected="one of ocsolver's own", got=header[what], todo=todo))
    return Solution(**core, history=history, problem=problem, discretization=Discretization(mesh, **chosen))


def _check_fit(problem: OptimalControlProblem, core: dict[str, Any]) -> None:
    """Raise InputError unless sizes, sharing and horizon of a problem are those of the stored arrays."""
    t, x, u = core["t"], core["x"], core["u"]
    ends, horizon = (float(t[0, 0]), float(t[-1, 0])), problem.horizon
    slack = 8 * torch.finfo(t.dtype).eps * max(map(abs, horizon))
    compared = 1 if problem.free_time is not None else 2  # a free final time is a result
    same = all(abs(a - b) <= slack for a, b in zip(ends[:compared], horizon[:compared], strict=True))
    sizes = (*problem.initial_state.shape, problem.m)
    stored = (*x.shape[1:], u.shape[-1])
    if not same or (sizes, problem.shared_control) != (stored, core["shared_control"]):
        text = "(B, n, m) = {}, shared_control={}, horizon {}"
        expected = text.format(stored, core["shared_control"], ends)
        got = text.format(sizes, problem.shared_control, horizon)
        raise InputError(complaint("problem", expected=expected, got=got, todo="Pass the problem that was solved."))


def _prefixed(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The tensors that were stored under a common name."""
    return {
        name.removeprefix(f"{prefix}_"): tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}_")
    }


def _events(groups: list[list[list[Any]]]) -> list[Any]:
    """Events per group as tuples, which JSON knows not."""
    return [[tuple(event) for event in events] for events in groups]


def _revived(text: str) -> Any:
    """Integrator or adjoint of the library from its repr, as data: no code of the file is run; None for others."""
    try:
        node = ast.parse(text, mode="eval").body
    except SyntaxError:  # a user's own class may print itself as it likes
        return None
    plugin = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
    known = (Euler, Heun, RK4, TorchDiffEq, SolveIVP, DiscreteAdjoint, ContinuousAdjoint)
    for kind in known:
        if isinstance(node, ast.Call) and kind.__name__ == plugin and not node.args:
            settings = {
                str(word.arg): _revived(ast.unparse(word.value))
                if isinstance(word.value, ast.Call)
                else ast.literal_eval(word.value)
                for word in node.keywords
            }
            return kind(**settings)
    return None
