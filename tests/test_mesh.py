"""Contracts of meshes: nodes relative to the horizon, and what is refused."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from helpers import nonlinear_problem, transcription

import ocsolver as oc


@pytest.mark.parametrize("intervals", [1, 2, 7, 100, np.int64(13)])
def test_uniform_mesh(intervals: int) -> None:
    mesh = oc.Mesh.uniform(intervals)
    assert mesh.intervals == intervals
    assert mesh.nodes.dtype == torch.float64
    assert float(mesh.nodes[0]) == 0.0
    assert float(mesh.nodes[-1]) == 1.0
    torch.testing.assert_close(mesh.nodes.diff(), torch.full((int(intervals),), 1.0 / int(intervals)).double())


@pytest.mark.parametrize(
    "convert", [list, tuple, np.array, torch.tensor, lambda nodes: torch.tensor(nodes, dtype=torch.float32)]
)
def test_nodes_from_lists_arrays_and_tensors(convert: Any) -> None:
    mesh = oc.Mesh(convert([0.0, 0.25, 0.5, 1.0]))
    assert mesh.intervals == 3
    assert mesh.nodes.dtype == torch.float64
    assert mesh.nodes.tolist() == [0.0, 0.25, 0.5, 1.0]


def test_integer_nodes_are_taken() -> None:
    assert oc.Mesh([0, 1]).intervals == 1


def test_mesh_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        oc.Mesh.uniform(3).nodes = torch.zeros(4)


def test_a_later_change_of_the_nodes_changes_nothing() -> None:
    nodes = np.array([0.0, 0.25, 1.0])
    mesh = oc.Mesh(nodes)
    nodes[1] = 0.9
    assert mesh.nodes.tolist() == [0.0, 0.25, 1.0]


@pytest.mark.parametrize(
    ("nodes", "text"),
    [
        ([0.0], "Mesh nodes: expected shape (N + 1,), N ≥ 1, got (1,)"),
        ([], "got (0,)"),
        (0.5, "got ()"),
        ([[0.0, 1.0]], "got (1, 2)"),
        ([0.0, 2.0], "Mesh nodes: expected finite nodes from 0 to 1, got ends (0.0, 2.0)"),
        ([0.1, 1.0], "got ends (0.1, 1.0)"),
        ([1.0, 0.5, 0.0], "got ends (1.0, 0.0)"),
        ([0.0, math.nan, 1.0], "expected finite nodes from 0 to 1"),
        ([0.0, 0.5, 0.5, 1.0], "strictly increasing nodes, got nodes[1] = 0.5 ≥ nodes[2] = 0.5"),
        ([0.0, 0.2, 0.7, 0.6, 1.0], "strictly increasing nodes, got nodes[2] = 0.7 ≥ nodes[3] = 0.6"),
        ("mesh", "Mesh nodes: expected numbers, got 'mesh'"),
        (None, "Mesh nodes: expected numbers, got None"),
    ],
)
def test_bad_nodes_are_refused(nodes: Any, text: str) -> None:
    with pytest.raises(oc.InputError) as caught:
        oc.Mesh(nodes)
    assert text in str(caught.value)


@pytest.mark.parametrize("intervals", [0, -3, 2.0, "7", True, math.nan, torch.tensor(5)])
def test_bad_number_of_intervals_is_refused(intervals: Any) -> None:
    with pytest.raises(oc.InputError) as caught:
        oc.Mesh.uniform(intervals)
    assert f"mesh: expected a positive number of intervals, got {intervals!r}" in str(caught.value)
    assert "oc.Mesh(nodes)" in str(caught.value)


def test_mesh_is_scaled_to_the_horizon() -> None:
    mesh = oc.Mesh([0.0, 0.1, 0.4, 1.0])
    problem = nonlinear_problem(False, t0=-2.0)
    t0, t1 = problem.horizon
    nodes = transcription(problem, mesh).nodes
    torch.testing.assert_close(nodes, t0 + (t1 - t0) * mesh.nodes)
    assert float(nodes[0]) == t0
    assert float(nodes[-1]) == t1


def test_solve_takes_an_int_or_a_mesh_and_nothing_else() -> None:
    problem = nonlinear_problem(True)
    assert transcription(problem, 9).mesh.intervals == 9
    assert transcription(problem, oc.Mesh([0.0, 0.3, 1.0])).mesh.intervals == 2
    with pytest.raises(oc.InputError, match="mesh: expected a positive number of intervals, got 0"):
        transcription(problem, 0)
    with pytest.raises(oc.InputError, match=r"mesh: expected a positive number of intervals, got \[0\.0, 1\.0\]"):
        transcription(problem, [0.0, 1.0])
