"""Cost of one training step on networks of growing depth and width: E-MSA, by part, against Adam in the same run.

Residual networks of Linear and Tanh on random data, batch 32; both methods take the same number of steps in turn, and
medians over the repetitions are printed and written as JSON.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import ocsolver as oc
from scripts._records import environment, write_json

__all__ = ["main"]

STEPS = 30  # of one repetition; curvature is refreshed once in the later ones
BATCH, SEED = 32, 0


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write.

    Parameters
    ----------
    argv : sequence of str, optional
        Command line without the name of the program; None takes that of the process.

    Returns
    -------
    int
        0.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one small network, one repetition")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the numbers (default: out)")
    options = parser.parse_args(argv)
    sizes = [(3, 8)] if options.quick else [(5, 64), (10, 64), (20, 64), (50, 64), (100, 64), (20, 16), (20, 256)]
    repeats = 1 if options.quick else 7
    torch.set_num_threads(1)
    rows = []
    print(f"{'depth':>6s}{'width':>6s}{'E-MSA':>9s}{'sweeps':>8s}{'step':>7s}{'Adam':>7s}{'ratio':>7s}   ms, medians")
    for depth, width in sizes:
        row = measured(depth, width, repeats)
        rows.append(row)
        numbers = (row["milliseconds"], row["propagation"], row["maximization"], row["adam"])
        print(
            f"{depth:6d}{width:6d}{numbers[0]:9.2f}{numbers[1]:8.2f}{numbers[2]:7.2f}{numbers[3]:7.2f}{row['ratio']:7.2f}"
        )
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "benchmark_networks.json"
    settings = {"quick": options.quick, "steps": STEPS, "batch": BATCH, "seed": SEED, "repeats": repeats}
    write_json(path, settings | environment() | {"networks": rows})
    print(f"\nwritten: {path}")
    return 0


def measured(depth: int, width: int, repeats: int) -> dict[str, Any]:
    """Milliseconds of a step of both methods, in turn."""
    torch.manual_seed(SEED)
    x, y = torch.randn(STEPS * BATCH, width), torch.randint(10, (STEPS * BATCH,))
    batches = list(zip(torch.split(x, BATCH), torch.split(y, BATCH), strict=True))
    loss = nn.CrossEntropyLoss(reduction="none")
    trainer = oc.nn.Trainer(network(depth, width), loss)
    net = network(depth, width)
    optimizer = torch.optim.Adam(net.parameters())

    def adam() -> None:
        for inputs, targets in batches:
            optimizer.zero_grad()
            torch.autograd.backward(loss(net(inputs), targets).mean())
            optimizer.step()

    def successive() -> list[oc.nn.StepRecord]:
        return trainer.fit(batches).steps

    successive()  # imports, caches, and the first steps, in which curvature is refreshed often
    adam()
    own, parts, theirs = [], [], []
    for _ in range(repeats):
        seconds, steps = timed(successive)
        own.append(seconds)
        parts.append(steps)
        theirs.append(timed(adam)[0])

    def share(name: str) -> float:
        return 1e3 / STEPS * float(statistics.median(sum(getattr(step, name) for step in steps) for steps in parts))

    return {
        "depth": depth,
        "width": width,
        "milliseconds": 1e3 / STEPS * statistics.median(own),
        "propagation": share("propagation_seconds"),
        "maximization": share("maximization_seconds"),
        "adam": 1e3 / STEPS * statistics.median(theirs),
        "ratio": statistics.median(a / b for a, b in zip(own, theirs, strict=True)),
    }


def network(depth: int, width: int) -> oc.nn.ResidualNetwork:
    """Residual network with a linear head."""
    torch.manual_seed(SEED)
    block: Callable[[], nn.Module] = lambda: nn.Sequential(nn.Linear(width, width), nn.Tanh())
    return oc.nn.ResidualNetwork(block, depth, 5.0 / depth, head=nn.Linear(width, 10))


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of a call, and its result."""
    begin = time.perf_counter()
    result = function()
    return time.perf_counter() - begin, result


if __name__ == "__main__":
    sys.exit(main())
