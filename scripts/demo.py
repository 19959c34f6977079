"""A tour in some two minutes: a bounded problem, a batch of regulators, a network, and Figure 1 of the paper in short.

It prints what the solver itself reports, errors against known optima included, and writes its pictures to one folder.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.colors
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import ocsolver as oc
from problems import oscillator_lqr, van_der_pol_bounded

PRECISE = oc.SolveIVP("DOP853", rtol=1e-10, atol=1e-10)


def one_problem(out: Path, mesh: int) -> dict[str, Any]:
    """Solve the bounded Van der Pol oscillator (A15) with the defaults, and question the answer."""
    reference = van_der_pol_bounded.build()
    solution = oc.solve(reference.problem, mesh=mesh)
    print(solution)
    cost, simulated = float(solution.cost[0]), float(solution.resimulate(PRECISE)[0])
    solution.plot().savefig(out / "demo_van_der_pol.png", dpi=150)
    assert reference.cost is not None
    print(f"J* (published)       {reference.cost:.10g}")
    print(f"J − J*               {cost - reference.cost:.3e}   (a control constant on {mesh} intervals)")
    print(f"J resimulated        {simulated:.10g}   (DOP853 at 1e-10; it differs by {simulated - cost:.1e})")
    return {
        "mesh": mesh,
        "status": solution.status[0].name,
        "cost": cost,
        "error": cost - reference.cost,
        "cost_resimulated": simulated,
        "residual": float(solution.residual[0]),
        "iterations": solution.stats.iterations,
    }


def batch(out: Path, count: int, mesh: int) -> dict[str, Any]:
    """Solve regulators of a harmonic oscillator (A08) from random initial states in one batch, on two meshes."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(count, 2, generator=generator, dtype=torch.float64)
    reference = oscillator_lqr.build(initial_state=states)
    exact = torch.tensor(reference.group_costs, dtype=torch.float64)
    coarse, fine = (oc.solve(reference.problem, mesh=intervals) for intervals in (mesh, 2 * mesh))
    print(fine)
    errors = [(solution.cost - exact) / exact for solution in (coarse, fine)]  # (G,) each
    for solution, error in zip((coarse, fine), errors, strict=True):
        absolute = float((solution.cost - exact).abs().max())
        N = solution.u.shape[0]
        print(f"N = {N:4d}   worst error of J against Riccati {absolute:.3e}, relative {float(error.abs().max()):.3e}")
    ratio = float(errors[0].abs().max() / errors[1].abs().max())
    print(f"halving the intervals divides the worst relative error by {ratio:.2f} (a piecewise constant control: 4)")
    _draw_batch(fine, exact, errors).savefig(out / "demo_batch.png", dpi=150)
    worst = int((fine.cost - exact).abs().argmax())
    fine.plot(worst).savefig(out / "demo_batch_worst.png", dpi=150)
    return {
        "problems": count,
        "meshes": [mesh, 2 * mesh],
        "converged": int(fine.success.sum()),
        "worst_relative_errors": [float(error.abs().max()) for error in errors],
        "seconds_of_the_solver": [solution.stats.seconds["total"] for solution in (coarse, fine)],
    }


def _draw_batch(solution: oc.Solution, exact: torch.Tensor, errors: list[torch.Tensor]) -> Figure:
    """All trajectories in the phase plane, their controls, and the relative errors of both meshes."""
    figure = Figure(figsize=(12.0, 4.2), layout="constrained")
    phase, control, error = figure.subplots(1, 3)
    colors = matplotlib.colormaps["viridis"]((exact.sqrt() / exact.sqrt().max() * 0.92).numpy())
    x, u, t = solution.x, solution.u, solution.t
    for i, color in enumerate(colors):
        phase.plot(x[:, i, 0], x[:, i, 1], color=color, linewidth=1.0)
        control.stairs(u[:, i, 0], t[:, i], baseline=None, color=color, linewidth=1.0)
    phase.scatter(x[0, :, 0], x[0, :, 1], s=10, c=colors, zorder=3)
    phase.set(xlabel="x[0]", ylabel="x[1]")
    phase.set_aspect("equal", adjustable="datalim")
    control.set(xlabel="t", ylabel="u")
    for values, color, N in zip(errors, ("#e0662a", "#1f5fa8"), (u.shape[0] // 2, u.shape[0]), strict=True):
        error.loglog(exact, values.abs(), ".", color=color, label=f"N = {N}")
    error.set(xlabel="J* (Riccati)", ylabel="|J − J*| / J*")
    error.legend(
        loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, frameon=False, borderaxespad=0.1, handlelength=1.0
    )
    titles = (f"{len(colors)} trajectories (light: costly)", "their controls", "relative error")
    for ax, title in zip((phase, control, error), titles, strict=True):
        ax.set_title(title, loc="left", fontsize=10, fontweight="bold")
        ax.grid(color="#e6e6e6", linewidth=0.6)
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
    return figure


def network(out: Path, epochs: int) -> dict[str, Any]:
    """Train a residual network of 12 layers on two spirals with the defaults, in mini-batches of 50."""
    torch.manual_seed(0)

    def spirals(count: int) -> TensorDataset:
        side, angle = torch.arange(count) % 2, 0.5 + 6.0 * torch.rand(count).sqrt()
        turned = angle + torch.pi * side
        points = angle[:, None] / 6.5 * torch.stack((turned.cos(), turned.sin()), -1)
        return TensorDataset(points + 0.02 * torch.randn(count, 2), side)

    train, test = spirals(1000), spirals(1000)
    module = oc.nn.ResidualNetwork(
        lambda: nn.Sequential(nn.Linear(16, 16), nn.Tanh()),
        depth=10,
        step=0.5,
        lift=nn.Linear(2, 16),
        head=nn.Linear(16, 2),
    )
    trainer = oc.nn.Trainer(module, nn.CrossEntropyLoss(reduction="none"))
    loader, tests = DataLoader(train, batch_size=50, shuffle=True), DataLoader(test, batch_size=1000)
    history = trainer.fit(loader, epochs, test_loader=tests)
    for epoch in history.epochs[:: -max(1, epochs // 4)][::-1]:
        accuracy = 100 * epoch.test_accuracy
        print(f"epoch {epoch.epoch:2d}   train loss {epoch.train_loss:.4f}   test accuracy {accuracy:.1f} %")
    _draw_network(module, test, history).savefig(out / "demo_network.png", dpi=150)
    steps = len(history.steps)
    return {
        "status": history.status.name,
        "epochs": epochs,
        "test_accuracy": history.epochs[-1].test_accuracy,
        "milliseconds_per_step": 1e3 * history.seconds / steps,
    }


def _draw_network(module: nn.Module, test: TensorDataset, history: oc.nn.TrainingHistory) -> Figure:
    """Regions of the two classes with the test points, and the course of the training."""
    figure = Figure(figsize=(9.0, 4.2), layout="constrained")
    plane, course = figure.subplots(1, 2)
    axis = torch.linspace(-1.2, 1.2, 200)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)
    with torch.no_grad():
        share = module(grid.reshape(-1, 2)).softmax(-1)[:, 1].reshape(200, 200).numpy()
    colors = matplotlib.colors.ListedColormap(["#e0662a", "#1f5fa8"])
    plane.imshow(share, extent=(-1.2, 1.2, -1.2, 1.2), origin="lower", cmap="RdBu", vmin=-0.2, vmax=1.2, alpha=0.5)
    points, classes = (tensor.numpy() for tensor in test.tensors)
    plane.scatter(points[:, 0], points[:, 1], s=4, c=classes, cmap=colors)
    plane.set_title("two spirals: test points, probability", loc="left", fontsize=10, fontweight="bold")
    plane.set(xlabel="x[0]", ylabel="x[1]")
    steps = [record.step for record in history.steps]
    course.semilogy(steps, [record.loss for record in history.steps], color="#e0662a", label="loss of the mini-batch")
    course.semilogy(steps, [record.rho for record in history.steps], color="#6b6b6b", label="ρ")
    course.set_title("training by E-MSA", loc="left", fontsize=10, fontweight="bold")
    course.set(xlabel="mini-batch")
    course.legend(frameon=False)
    course.grid(color="#e6e6e6", linewidth=0.6)
    course.spines[["top", "right"]].set_visible(False)
    return figure


def figure1(out: Path) -> dict[str, Any]:
    """Reproduce Figure 1 of the paper in short."""
    # Imported here, so that the other parts run without it.
    from scripts.figure1 import main as reproduce

    return {"exit_code": reproduce(["--quick", "--iterations", "25", "--out", str(out)])}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tour.

    Parameters
    ----------
    argv : sequence of str, optional
        Command line without the name of the program; None takes that of the process.

    Returns
    -------
    int
        Exit code: 0 unless a part could not run.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for pictures and numbers (default: out)")
    parser.add_argument("--quick", action="store_true", help="coarser meshes and a smaller batch")
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    begin = time.time()
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "Van der Pol oscillator with a bounded control": lambda: one_problem(
            options.out, 100 if options.quick else 400
        ),
        "a batch of linear-quadratic regulators": lambda: batch(options.out, 8 if options.quick else 64, 100),
        "a residual network on two spirals": lambda: network(options.out, 2 if options.quick else 12),
        "Figure 1 of the paper, shortened": lambda: figure1(options.out),
    }
    results: dict[str, Any] = {}
    for title, part in parts.items():
        print(f"\n=== {title}", flush=True)
        start = time.perf_counter()
        results[title] = part()
        results[title]["seconds"] = time.perf_counter() - start
    print("\n=== seconds")
    for title, result in results.items():
        print(f"{result['seconds']:7.1f}   {title}")
    versions = {"ocsolver": oc.__version__, "torch": torch.__version__, "python": platform.python_version()}
    record = {
        "versions": versions,
        "machine": platform.platform(),
        "threads": torch.get_num_threads(),
        "parts": results,
    }
    (options.out / "demo.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print("\n=== written")
    # File systems round times: a second of slack finds every file of this run.
    print(
        *sorted(str(file) for file in options.out.rglob("*") if file.is_file() and file.stat().st_mtime > begin - 1),
        sep="\n",
    )
    return int(any(result.get("exit_code", 0) for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
