"""Where the control may change its value: nodes on [0, 1]; it knows nothing of problems or integrators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ocsolver._shapes import as_tensor
from ocsolver.errors import InputError, complaint

__all__ = ["Mesh"]


@dataclass(frozen=True, eq=False, init=False)
class Mesh:
    """Nodes of a time mesh, relative to the horizon.

    Parameters
    ----------
    nodes : array_like, shape (N + 1,)
        Strictly increasing, from 0 to 1. The control is constant between neighboring nodes.

    Raises
    ------
    InputError
        If the nodes do not increase strictly from 0 to 1.

    Examples
    --------
    >>> import ocsolver as oc
    >>> oc.Mesh([0.0, 0.1, 0.4, 1.0]).intervals
    3
    >>> oc.Mesh.uniform(50).intervals
    50
    """

    nodes: Tensor  # (N + 1,), float64

    def __init__(self, nodes: Sequence[float] | Tensor | np.ndarray[Any, Any]) -> None:
        grid = as_tensor(nodes, what="Mesh nodes").to(torch.float64).cpu()
        todo = "Give N + 1 nodes in [0, 1]; they are scaled to the horizon for you."
        if grid.ndim != 1 or grid.numel() < 2:
            raise InputError(
                complaint("Mesh nodes", expected="shape (N + 1,), N ≥ 1", got=tuple(grid.shape), todo=todo)
            )
        values = grid.detach().numpy()
        if not np.isfinite(values).all() or values[0] != 0.0 or values[-1] != 1.0:
            ends = (float(values[0]), float(values[-1]))
            raise InputError(
                complaint("Mesh nodes", expected="finite nodes from 0 to 1", got=f"ends {ends}", todo=todo)
            )
        lengths = np.diff(values)
        if not (lengths > 0).all():
            k = int(np.argmax(lengths <= 0))
            got = f"nodes[{k}] = {float(values[k])} ≥ nodes[{k + 1}] = {float(values[k + 1])}"
            raise InputError(complaint("Mesh nodes", expected="strictly increasing nodes", got=got, todo=todo))
        object.__setattr__(self, "nodes", grid)

    @classmethod
    def of_checked(cls, nodes: Tensor) -> Mesh:
        """Mesh of nodes (N + 1,) that are known to be right, in float64 and on the processor.

        Parameters
        ----------
        nodes : Tensor, shape (N + 1,)
            Taken as it is.

        Returns
        -------
        Mesh
            With these nodes.
        """
        mesh = object.__new__(cls)
        object.__setattr__(mesh, "nodes", nodes)
        return mesh

    @classmethod
    def uniform(cls, intervals: int) -> Mesh:
        """Mesh of `intervals` equal intervals.

        Parameters
        ----------
        intervals : int
            Number of intervals N ≥ 1.

        Returns
        -------
        Mesh
            Nodes 0, 1/N, …, 1.
        """
        if isinstance(intervals, bool) or not isinstance(intervals, (int, np.integer)) or intervals < 1:
            todo = "Pass an int N ≥ 1 or an oc.Mesh(nodes)."
            raise InputError(
                complaint("mesh", expected="a positive number of intervals", got=repr(intervals), todo=todo)
            )
        return cls(torch.arange(int(intervals) + 1, dtype=torch.float64) / int(intervals))

    @property
    def intervals(self) -> int:
        """Number of intervals N."""
        return self.nodes.numel() - 1
