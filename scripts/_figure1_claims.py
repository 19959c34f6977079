"""What the paper says of its Figure 1, checked one by one on the stored numbers and on nothing else."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from scripts._claims import Claim, compared, known

__all__ = ["BASELINES", "COUNTS", "SUCCESSIVE", "Claim", "check_claims", "median_curve"]

SUCCESSIVE = ("E-MSA, fixed ρ", "E-MSA, adaptive ρ")
BASELINES = ("SGD", "Adagrad", "Adam")
COUNTS = (5, 10, 20, 50, 100, 200)  # iterations at which panel (a) is read
ESCAPED = 0.1  # the slow manifolds of panel (b) lie at losses of 0.25 to 0.5


def median_curve(results: dict[str, Any], start: str, method: str, which: str = "train") -> list[float]:
    """Median over the seeds of a curve, per iteration."""
    return median_of(results["panels"][start][method]["runs"], which)


def median_of(runs: list[dict[str, Any]], which: str = "train") -> list[float]:
    """Median over some runs of a curve, per iteration; a missing value stands for an infinite loss."""
    return [statistics.median(map(known, values)) for values in zip(*(run[which] for run in runs), strict=True)]


def counts(iterations: int) -> list[int]:
    """Iterations at which the curves are compared."""
    return [count for count in COUNTS if count < iterations] + [iterations]


def check_claims(results: dict[str, Any]) -> list[Claim]:
    """Check the statements about Figure 1.

    Parameters
    ----------
    results : dict
        The content of ``figure1.json``.

    Returns
    -------
    list of Claim
        Each with a verdict and its numbers.
    """
    return [*ahead(results), *escape(results), *symmetry(results), *saddle(results)]


def ahead(results: dict[str, Any]) -> Iterator[Claim]:
    """Panel (a): favorable convergence per iteration."""
    panel, at = results["panels"]["good"], counts(results["iterations"])

    def best(method: str) -> list[float]:
        """Loss at every count, with the parameter chosen anew for each, if there is one to choose."""
        if not panel[method]["grid"]:
            return levels(method)
        return [min(known(entry["at"][str(k)]) for entry in panel[method]["grid"]) for k in at]

    def levels(method: str) -> list[float]:
        curve = median_curve(results, "good", method)
        return [curve[k] for k in at]

    for method in SUCCESSIVE:
        for baseline in BASELINES:
            ours, theirs = levels(method), levels(baseline)
            yield compared(f"(a) {method} ends below tuned {baseline}", at[-1:], ours[-1:], theirs[-1:])
            yield compared(f"(a) {method} is ahead of tuned {baseline} at every count", at, ours, theirs)
            statement = f"(a) {method} is ahead of {baseline} at every count, parameters chosen anew for each"
            yield compared(statement, at, best(method), best(baseline))


def first_below(curve: Sequence[float | None], level: float = ESCAPED) -> int | None:
    """First iteration at which a curve is below a level, or None."""
    return next((k for k, value in enumerate(curve) if value is not None and value < level), None)


def told(method: str, runs: list[dict[str, Any]]) -> str:
    """When the median curve of a method escapes, where it ends, and how many seeds escape."""
    curve = median_of(runs)
    k, escaped = first_below(curve), sum(first_below(run["train"]) is not None for run in runs)
    when = f"escapes at {k}" if k is not None else "never escapes"
    return f"{method} {when}, ends at {curve[-1]:.2g} ({escaped} of {len(runs)} seeds escape)"


def escape(results: dict[str, Any]) -> Iterator[Claim]:
    """Panel (b): gradient methods stall where E-MSA escapes."""
    for start, words in (("zero", "from exactly zero"), ("noise", "from zero with noise")):
        panel = results["panels"][start]
        words_of = {method: told(method, panel[method]["runs"]) for method in (*SUCCESSIVE, *BASELINES)}
        first = {method: first_below(median_curve(results, start, method)) for method in words_of}
        for method in SUCCESSIVE:
            k = first[method]
            yield Claim(f"(b) {method} escapes {words}", k is not None, words_of[method])
            for baseline in BASELINES:
                other = first[baseline]
                sooner = k is not None and (other is None or k < other)
                statement = f"(b) {method} escapes {words} before tuned {baseline}"
                yield Claim(statement, sooner, f"{words_of[method]}; {words_of[baseline]}")
        for baseline in BASELINES:
            statement = f"(b) tuned {baseline} is stuck to the end {words}"
            yield Claim(statement, first[baseline] is None, words_of[baseline])
    longer = results["patience"]
    for baseline in BASELINES:
        runs = longer["methods"][baseline]["runs"]
        statement = (
            f"(b) {baseline} tuned for {longer['iterations']} iterations is stuck to the end from zero with noise"
        )
        yield Claim(statement, first_below(median_of(runs)) is None, told(baseline, runs))


def symmetry(results: dict[str, Any]) -> Iterator[Claim]:
    """Trap of the exactly zero start: no method can tell the rows of a layer apart."""
    panel = results["panels"]["zero"]
    worst = {method: max(run["spread"] for run in panel[method]["runs"]) for method in (*SUCCESSIVE, *BASELINES)}
    evidence = "largest relative difference in a layer: " + ", ".join(
        f"{method} {value:.1e}" for method, value in worst.items()
    )
    statement = "(b) from exactly zero all weights of a layer stay equal, and all its biases, whatever the method"
    yield Claim(statement, max(worst.values()) < 1e-9, evidence)


def saddle(results: dict[str, Any]) -> Iterator[Claim]:
    """The Hessian where gradient descent stalls has eigenvalues of both signs, and the gradient nearly vanishes."""
    points = results["hessian"]
    initial = points["start"]["gradient_norm"]
    for point in points.values():
        indefinite = point["smallest"] < -1e-3 * point["largest"] and point["largest"] > 0
        flat = point["gradient_norm"] < 1e-3 * initial
        escapes = point["lowest_direction"]["loss"] < point["loss"]
        signs = ", ".join(f"{point[sign]} {sign}" for sign in ("negative", "zero", "positive"))
        evidence = (
            f"loss {point['loss']:.4g}, gradient norm {point['gradient_norm']:.2g}, "
            f"eigenvalues {point['smallest']:.3g} to {point['largest']:.3g} ({signs}); "
            f"along the lowest direction the loss falls to {point['lowest_direction']['loss']:.4g}"
        )
        yield Claim(f"(b) {point['name']} is close to a saddle", indefinite and flat and escapes, evidence)
