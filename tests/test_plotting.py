"""Pictures of solutions: what they show equals what the solution says, whatever it looks like."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from exact import bang_bang, regulator, sliding
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

import ocsolver as oc

N, B, n, m = 23, 4, 3, 2
STATES = [[1.0, 0.0, -0.5], [0.2, -1.0, 0.4], [-0.7, 0.3, 0.9], [1.5, 1.0, 0.1]]
WITH_PROBLEM = ["states", "Hamiltonian", "control", "gap to the maximum of H", "costates", "convergence"]
WITHOUT_PROBLEM = ["states", "control", "costates", "convergence"]


def problem(control_set: oc.ControlSet, dtype: torch.dtype = torch.float64, **options: Any) -> oc.OptimalControlProblem:
    """An oscillator with a follower (n = 3), pushed by two controls (m = 2)."""
    states = torch.tensor(options.pop("initial_state", STATES), dtype=dtype)

    def dynamics(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        a, b, c = x.unbind(-1)
        return torch.stack((b + 0.0 * u[..., 0], u[..., 0] - a, a * u[..., 1] - c), -1)

    def running_cost(t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return x.square().sum(-1) + 0.5 * u.square().sum(-1)

    return oc.OptimalControlProblem(
        dynamics, running_cost, initial_state=states, horizon=(0.5, 2.5), control_set=control_set, **options
    )


def scalar_problem(**options: Any) -> oc.OptimalControlProblem:
    """ẋ = u with ½(x² + u²), on a horizon where plain steps are rejected now and then."""
    arguments: dict[str, Any] = {"initial_state": [1.0], "horizon": (0.0, 5.0), "control_set": oc.Unconstrained(1)}
    return oc.OptimalControlProblem(
        lambda t, x, u: u, lambda t, x, u: 0.5 * (x[..., 0] ** 2 + u[..., 0] ** 2), **(arguments | options)
    )


def run(problem: oc.OptimalControlProblem, iterations: int = 4, **options: Any) -> oc.Solution:
    """A few iterations: pictures must not depend on convergence."""
    return oc.solve(problem, mesh=N, max_iterations=iterations, tolerance=None, **options)


def panels(figure: Figure) -> dict[str, Axes]:
    """Panels by title; draws the figure, without the slow search for a layout, so that what fails then fails here."""
    figure.set_layout_engine("none")
    figure.draw_without_rendering()
    return {ax.get_title(loc="left"): ax for ax in figure.axes}


def line(ax: Axes, label: str) -> Line2D:
    (found,) = [line for line in ax.get_lines() if line.get_label() == label]
    return found


def data(ax: Axes, label: str) -> tuple[np.ndarray, np.ndarray]:
    x, y = line(ax, label).get_data()
    return np.asarray(x, dtype=float), np.asarray(y, dtype=float)


def legend(ax: Axes) -> list[str]:
    found = ax.get_legend()
    return [] if found is None else [text.get_text() for text in found.get_texts()]


def levels(ax: Axes) -> list[tuple[float, str, Any]]:
    """Level, line style and color of every line across the panel, sorted by level."""
    across = [line for line in ax.get_lines() if line.get_transform() == ax.get_yaxis_transform(which="grid")]
    return sorted((float(line.get_ydata()[0]), line.get_linestyle(), line.get_color()) for line in across)


def check_contents(solution: oc.Solution, figure: Figure, i: int) -> dict[str, Axes]:
    """Every curve of trajectory i equals what the solution stores."""
    found = panels(figure)
    known = solution.problem is not None
    assert list(found) == (WITH_PROBLEM if known else WITHOUT_PROBLEM)
    g = i if solution.u.shape[1] > 1 else 0
    t = solution.t[:, g].double().numpy()
    for title, name, rows in (("states", "x", solution.x), ("costates", "p", solution.p)):
        for j in range(rows.shape[-1]):
            times, values = data(found[title], f"{name}[{j}]" if rows.shape[-1] > 1 else name)
            parts = (times.size - 1) // (t.size - 1)
            np.testing.assert_array_equal(times[::parts], t)
            np.testing.assert_array_equal(values[::parts], rows[:, i, j].double().numpy())
            assert (parts > 1) == known
    for j in range(solution.u.shape[-1]):
        label = f"u[{j}]" if solution.u.shape[-1] > 1 else "u"
        times, values = data(found["control"], label)
        assert line(found["control"], label).get_drawstyle() == "steps-post"
        np.testing.assert_array_equal(times, t)
        np.testing.assert_array_equal(values[:-1], solution.u[:, g, j].double().numpy())
        assert values[-1] == values[-2]
    if known:
        value, gap = solution.hamiltonian()
        times, values = data(found["Hamiltonian"], "H")
        np.testing.assert_allclose(times, 0.5 * (t[1:] + t[:-1]), rtol=1e-15)
        np.testing.assert_array_equal(values, value[:, i].double().numpy())
        if bool((gap[:, g] > 0).any()):
            lines = found["gap to the maximum of H"].get_lines()  # the others mark switches
            (drawn,) = (line for line in lines if len(line.get_xdata()) == gap.shape[0])
            expected = torch.where(gap[:, g] > 0, gap[:, g], torch.nan).double().numpy()
            np.testing.assert_array_equal(drawn.get_ydata(), expected)
            assert found["gap to the maximum of H"].get_yscale() == "log"
    for title, name in (("states", "x"), ("costates", "p"), ("control", "u")):
        assert found[title].get_ylabel() == name
        assert found[title].get_xlim() == (t[0], t[-1])
    assert found["costates"].get_xlabel() == "t"
    assert found["convergence"].get_xlabel() == "iteration"
    return found


# ------------------------------------------------------------------------------------------------- every control set

GRAY = "#6b6b6b"
SETS: dict[str, tuple[oc.ControlSet, list[tuple[float, str, int | None]]]] = {
    # the levels to be drawn: where, how, and of which component alone (None: of both)
    "unconstrained": (oc.Unconstrained(m), []),
    "box": (oc.Box([-0.3, -0.3], [0.2, 0.4]), [(-0.3, "--", None), (0.2, "--", 0), (0.4, "--", 1)]),
    "half-open box": (oc.Box([-0.3, -torch.inf], [torch.inf, 0.4]), [(-0.3, "--", 0), (0.4, "--", 1)]),
    "ball": (oc.Ball(0.4, m), [(-0.4, "-.", None), (0.4, "-.", None)]),
    "finite set": (
        oc.FiniteSet([[0.0, 0.0], [0.5, -0.5], [-0.5, -0.5]]),
        [(-0.5, ":", None), (0.0, ":", None), (0.5, ":", 0)],
    ),
    "product": (
        oc.Product(oc.Ball(0.4, 1), oc.FiniteSet([-1.0, 0.0])),
        [(-1.0, ":", 1), (-0.4, "-.", 0), (0.0, ":", 1), (0.4, "-.", 0)],
    ),
}


@pytest.mark.parametrize("name", SETS)
def test_picture_equals_the_solution_and_shows_the_set(name: str) -> None:
    control_set, expected = SETS[name]
    solution = run(problem(control_set))
    control = check_contents(solution, solution.plot(2), 2)["control"]
    colors = [line(control, f"u[{j}]").get_color() for j in range(m)]
    assert levels(control) == [(y, style, GRAY if j is None else colors[j]) for y, style, j in expected]
    kinds = {"--": "bounds", "-.": "radius", ":": "points"}
    assert {kinds[style] for _, style, _ in expected} == set(legend(control)) - {"u[0]", "u[1]", "‖u‖"}
    low, high = control.get_ylim()
    assert all(low < y < high for y, _, _ in expected)
    if name == "ball":
        norm = data(control, "‖u‖")[1]
        np.testing.assert_allclose(norm[:-1], solution.u[:, 2].norm(dim=-1).numpy(), rtol=1e-15)
        assert norm.max() <= 0.4


def test_scalar_problem_needs_no_legend_but_for_the_bounds() -> None:
    found = check_contents(free := run(scalar_problem()), free.plot(), 0)
    assert not any(legend(found[title]) for title in ("states", "costates", "control", "Hamiltonian"))
    bounded = run(scalar_problem(control_set=oc.Box(-0.5, 0.5)))
    assert legend(panels(bounded.plot())["control"]) == ["bounds", "u"]


def test_remote_bounds_do_not_flatten_the_control() -> None:
    solution = run(scalar_problem(control_set=oc.Box(-1e6, 1e6)))
    control = panels(solution.plot())["control"]
    assert [y for y, _, _ in levels(control)] == [-1e6, 1e6]
    assert max(map(abs, control.get_ylim())) < 2.0
    assert legend(control) == ["bounds (out of view)", "u"]


def test_initial_control_that_does_not_vary_is_shown_between_its_bounds() -> None:
    solution = run(scalar_problem(control_set=oc.Box(-2.0, 3.0)), 0)
    low, high = panels(solution.plot())["control"].get_ylim()
    assert low < -2.0
    assert high > 3.0


# ---------------------------------------------------------------------------------------------- groups and trajectories


def test_each_trajectory_has_its_own_picture() -> None:
    solution = run(problem(oc.Unconstrained(m)))
    for i in (0, np.int64(3)):
        figure = solution.plot(i)
        found = check_contents(solution, figure, int(i))
        assert len(found["states"].get_lines()) == n
        assert f"trajectory {i} of {B}" in figure.get_suptitle()
        assert f"J = {float(solution.cost[i]):.7g}" in figure.get_suptitle()


def test_shared_control_shows_the_other_trajectories_faintly() -> None:
    solution = run(problem(oc.Box([-1.0] * m, [1.0] * m), shared_control=True))
    figure = solution.plot(1)
    found = check_contents(solution, figure, 1)
    assert "one control for all" in figure.get_suptitle()
    for title, rows in (("states", solution.x), ("costates", solution.p)):
        faint = [line for line in found[title].get_lines() if line.get_alpha() is not None]
        bold = [line for line in found[title].get_lines() if line.get_alpha() is None]
        assert len(faint) == (B - 1) * n
        assert len(bold) == n
        assert max(line.get_linewidth() for line in faint) < min(line.get_linewidth() for line in bold)
        drawn = sorted(tuple(line.get_ydata()) for line in faint)
        others = [b for b in range(B) if b != 1]
        assert drawn == sorted(tuple(rows[:, b, j].tolist()) for b in others for j in range(n))
    mean = data(found["Hamiltonian"], "mean over trajectories")[1]
    np.testing.assert_allclose(mean, solution.hamiltonian()[0].mean(1).numpy(), rtol=1e-14)
    low, high = found["Hamiltonian"].get_ylim()
    assert low < mean.min()
    assert mean.max() < high


def test_large_ensemble_stays_readable() -> None:
    solution = run(scalar_problem(initial_state=torch.linspace(-1.0, 1.0, 1000)[:, None], shared_control=True), 1)
    assert 100 <= len(solution.plot(500).axes[0].get_lines()) <= 201


@pytest.mark.parametrize("trajectory", [-1, B, 1.0, True, "0", None])
def test_bad_trajectory_is_refused(trajectory: Any) -> None:
    solution = run(problem(oc.Unconstrained(m)), 0)
    with pytest.raises(oc.InputError) as caught:
        solution.plot(trajectory)
    assert str(caught.value) == (
        f"trajectory: expected an int from 0 to 3, got {trajectory!r}. Pass the index of a row of initial_state."
    )


def test_bad_trajectory_of_a_single_one_is_refused() -> None:
    with pytest.raises(oc.InputError, match="expected 0, the only trajectory, got 1"):
        run(scalar_problem(), 0).plot(1)


# ------------------------------------------------------------------------------------------------------------- storage


def test_loaded_solution_is_drawn_with_and_without_its_problem(tmp_path: Path) -> None:
    original = problem(oc.Box([-0.3, -0.3], [0.2, 0.4]))
    solution = run(original)
    solution.save(tmp_path / "run")
    alone = oc.load(tmp_path / "run")
    assert not levels(check_contents(alone, alone.plot(1), 1)["control"])
    again = oc.load(tmp_path / "run", original)
    assert len(levels(check_contents(again, again.plot(1), 1)["control"])) == 3


# ------------------------------------------------------------------------------------------------------------ failures


@pytest.fixture
def blow_up() -> oc.Solution:
    """ẋ = x³ with x(0) = 2 and −2: no control in [−1, 1] keeps it; the third row starts at rest."""
    failing = oc.OptimalControlProblem(
        lambda t, x, u: x**3 + u,
        lambda t, x, u: x[..., 0] ** 2 + u[..., 0] ** 2,
        initial_state=[[2.0], [-2.0], [0.0]],
        horizon=(0.0, 3.0),
        control_set=oc.Box(-1.0, 1.0),
    )
    with pytest.warns(oc.ConvergenceWarning):
        return oc.solve(failing, mesh=100)


def test_blow_up_is_drawn_up_to_the_failing_node(blow_up: oc.Solution) -> None:
    figure = blow_up.plot(1)
    found = panels(figure)
    assert list(found) == WITH_PROBLEM
    assert figure.get_suptitle().startswith("INTEGRATION_FAILED")
    assert blow_up.notes[1].split(",")[0] in figure.get_suptitle().replace("\n", " ")
    assert "J = inf" in figure.get_suptitle()
    x = blow_up.x[:, 1, 0].numpy()
    finite = np.isfinite(x)
    assert 2 < finite.sum() < 20
    times, values = data(found["states"], "x")
    np.testing.assert_array_equal(values, x)
    assert found["states"].get_yscale() == "symlog"
    for title in WITH_PROBLEM[:-1]:  # all but the convergence: the time without values is shaded
        (span,) = found[title].patches
        assert span.get_extents().width > 0
        assert span.get_x() == times[finite][-1]
        assert span.get_x() + span.get_width() == times[-1]
    texts = {title: [text.get_text() for text in ax.texts] for title, ax in found.items()}
    assert texts["costates"] == ["no finite costates"]
    assert texts["Hamiltonian"] == texts["gap to the maximum of H"] == ["no finite trajectory"]
    assert texts["convergence"] == ["no finite values"]
    assert [y for y, _, _ in levels(found["control"])] == [-1.0, 1.0]


def test_failing_rows_do_not_spoil_the_picture_of_the_others(blow_up: oc.Solution) -> None:
    figure = blow_up.plot(2)
    found = check_contents(blow_up, figure, 2)
    assert figure.get_suptitle().startswith("CONVERGED")
    assert not found["states"].patches
    assert found["states"].get_yscale() == "linear"


def test_failure_of_a_shared_control_is_drawn(blow_up: oc.Solution) -> None:
    assert blow_up.problem is not None
    shared = oc.OptimalControlProblem(
        blow_up.problem.dynamics,
        blow_up.problem.running_cost,
        initial_state=blow_up.problem.initial_state,
        horizon=blow_up.problem.horizon,
        control_set=oc.Box(-1.0, 1.0),
        shared_control=True,
    )
    with pytest.warns(oc.ConvergenceWarning):
        solution = oc.solve(shared, mesh=100)
    for i in range(3):
        assert list(panels(solution.plot(i))) == WITH_PROBLEM


def test_loaded_failure_is_drawn(blow_up: oc.Solution, tmp_path: Path) -> None:
    blow_up.save(tmp_path / "run")
    assert list(panels(oc.load(tmp_path / "run").plot())) == WITHOUT_PROBLEM


def test_notes_are_not_mistaken_for_formulas_and_long_ones_are_shortened() -> None:
    note = "running_cost returned $nan at x_{1 of $" + " and so on" * 60
    figure = replace(run(scalar_problem(), 0), notes=[note], status=[oc.Status.NONFINITE]).plot()
    panels(figure)
    title = figure.get_suptitle()
    assert "$nan at x_{1 of $" in title
    assert title.endswith("…")
    assert max(map(len, title.splitlines())) <= 120


# --------------------------------------------------------------------------------------------- Hamiltonian and progress


def test_exact_maximum_is_named() -> None:
    bang_bang = oc.OptimalControlProblem(
        lambda t, x, u: u,
        None,
        lambda x: x[..., 0],
        initial_state=[0.0],
        horizon=(0.0, 1.0),
        control_set=oc.Box(-1.0, 1.0),
    )
    solution = run(bang_bang, initial_control=[-1.0])
    gap = panels(solution.plot())["gap to the maximum of H"]
    assert [text.get_text() for text in gap.texts] == ["zero on every interval"]


def test_hamiltonian_without_maximum_is_named() -> None:
    linear = oc.OptimalControlProblem(
        lambda t, x, u: u,
        None,
        lambda x: x[..., 0],
        initial_state=[0.0],
        horizon=(0.0, 1.0),
        control_set=oc.Unconstrained(1),
    )
    gap = panels(run(linear, 0).plot())["gap to the maximum of H"]
    assert [text.get_text() for text in gap.texts] == ["no finite maximum of H over U"]


def test_constant_hamiltonian_looks_constant() -> None:
    solution = oc.solve(scalar_problem(), mesh=200)
    ax = panels(solution.plot())["Hamiltonian"]
    H = data(ax, "H")[1]
    low, high = ax.get_ylim()
    assert np.ptp(H) <= 0.95 * (high - low)
    uncontrolled = run(scalar_problem(), 0)  # u = 0: H = −½x² is constant up to rounding
    low, high = panels(uncontrolled.plot())["Hamiltonian"].get_ylim()
    assert high - low >= 0.02 * 0.5


def test_convergence_shows_the_history() -> None:
    # Over T = 5 a penalty below 4.566 does not converge, so the first trials are rejected.
    solution = oc.solve(scalar_problem(), oc.EMSA(rho=oc.AdaptivePenalty(initial=1e-3)), mesh=N)
    figure = solution.plot()
    ax = panels(figure)["convergence"]
    history = solution.history
    for label, values in (
        ("cost − lowest", history.cost[:, 0] - history.cost[:, 0].min()),
        ("residual", history.residual[:, 0]),
        ("ρ", history.rho[:, 0]),
    ):
        k, drawn = data(ax, label)
        np.testing.assert_array_equal(k, np.arange(history.cost.shape[0]))
        np.testing.assert_array_equal(drawn, torch.where(values > 0, values, torch.nan).numpy())
    rejected = (~history.accepted[:, 0]).nonzero()[:, 0].numpy()
    assert rejected.size > 0
    np.testing.assert_array_equal(data(ax, "rejected")[0], rejected)
    assert ax.get_yscale() == "log"
    assert legend(ax) == ["cost − lowest", "residual", "ρ", "rejected"]
    assert f"{solution.stats.iterations} iterations" in figure.get_suptitle()


def test_convergence_of_a_group_ends_where_it_converged() -> None:
    solution = oc.solve(scalar_problem(initial_state=[[1.0], [0.0]]), mesh=N)
    assert solution.stats.iterations > 0
    figure = solution.plot(1)  # at rest in the origin: the first control is the best
    assert "0 iterations" in figure.get_suptitle()
    ax = panels(figure)["convergence"]
    assert [text.get_text() for text in ax.texts] == ["zero throughout"]
    assert not ax.get_lines()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_single_precision_and_zero_iterations(dtype: torch.dtype) -> None:
    solution = run(problem(oc.Ball(0.5, m), dtype), 0)
    ax = check_contents(solution, solution.plot(), 0)["convergence"]
    assert data(ax, "residual")[0].tolist() == [0.0]
    assert "rejected" not in legend(ax)
    solved = run(problem(oc.Ball(0.5, m), dtype))
    check_contents(solved, solved.plot(), 0)


def test_many_components_are_told_apart_by_shade() -> None:
    size = 11
    large = oc.OptimalControlProblem(
        lambda t, x, u: u - 0.1 * x,
        lambda t, x, u: x.square().sum(-1) + u.square().sum(-1),
        initial_state=torch.linspace(-1.0, 1.0, size, dtype=torch.float64),
        horizon=(0.0, 1.0),
        control_set=oc.Box([-0.5] * size, [0.5] * size),
    )
    solution = run(large)
    found = check_contents(solution, solution.plot(), 0)
    for title, name in (("states", "x"), ("costates", "p"), ("control", "u")):
        assert not legend(found[title])
        assert f"{name}[0] dark … {name}[10] light" in found[title].get_title(loc="right")
        assert len({line(found[title], f"{name}[{j}]").get_color() for j in range(size)}) == size


def test_wild_interpolation_is_not_drawn() -> None:
    stiff = oc.OptimalControlProblem(
        lambda t, x, u: -1e2 * (x - u),
        None,
        lambda x: (x[..., 0] - 1.0) ** 2,
        initial_state=[2.0],
        horizon=(0.0, 1.0),
        control_set=oc.Unconstrained(1),
    )
    solution = oc.solve(stiff, mesh=4, max_iterations=0, tolerance=None, integrator=oc.SolveIVP("DOP853"))
    middle = 0.5 * (solution.t[1:] + solution.t[:-1])[:, 0]
    assert float(solution.state(middle).abs().max()) > 4.0  # far outside [0, 2]: a slope of −200 over a long step
    times, values = data(panels(solution.plot())["states"], "x")
    np.testing.assert_array_equal(times, solution.t[:, 0].numpy())
    np.testing.assert_array_equal(values, solution.x[:, 0, 0].numpy())


# ------------------------------------------------------------------------------------------- polynomials, constraints


def test_polynomial_control_is_drawn_densely_with_its_jumps() -> None:
    solution = bang_bang(4)
    found = panels(solution.plot())
    assert list(found) == WITH_PROBLEM
    times, values = data(found["control"], "u")
    assert len(times) > 200
    assert bool((np.diff(times) >= 0).all())
    np.testing.assert_allclose(values, np.where(times < 1.0, -1.0, 1.0))
    for title in ("states", "control", "costates", "Hamiltonian", "gap to the maximum of H"):
        assert any(line.get_linestyle() == ":" and line.get_xdata()[0] == 1.0 for line in found[title].get_lines()), (
            title
        )


def test_each_group_is_drawn_on_its_own_mesh() -> None:
    solution = regulator(5)
    times, values = data(panels(solution.plot(1))["states"], "x")
    assert set(solution.t[:, 1].tolist()) <= set(times.tolist())
    np.testing.assert_allclose(values, 2.0 * np.cosh(1.0 - times) / np.cosh(1.0), rtol=1e-6)


def test_path_constraint_is_drawn_with_bounds_and_multipliers() -> None:
    solution = sliding(5)
    found = panels(solution.plot())
    assert list(found) == [*WITH_PROBLEM, "path constraint", "multiplier of the path constraint"]
    times, values = data(found["path constraint"], "c")
    np.testing.assert_allclose(values, 1.0, atol=1e-4)
    assert [level for level, _, _ in levels(found["path constraint"])] == [1.0]
    low, high = found["path constraint"].get_ylim()
    assert high - low > 0.01  # an active constraint looks constant
    assert data(found["multiplier of the path constraint"], "ν")[1].min() > 0.1
    bare = replace(solution, pieces=replace(solution.pieces, path_multipliers=None))
    panels(bare.plot())


def test_singular_arcs_are_bands_behind_the_control() -> None:
    plain, marked = (panels(replace(bang_bang(4), singular=arcs).plot()) for arcs in ([], [[(0.2, 0.4, 0)]]))
    assert len(marked["control"].patches) == len(plain["control"].patches) + 1


def test_pyplot_is_left_alone() -> None:
    before = plt.get_fignums()
    figure = run(scalar_problem(), 0).plot()
    figure.savefig(io.BytesIO(), format="png", dpi=30)
    assert plt.get_fignums() == before
