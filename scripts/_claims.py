"""Statements of the paper with verdicts; it knows no figure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

__all__ = ["Claim", "compared", "known", "print_claims"]


@dataclass(frozen=True)
class Claim:
    """A statement, whether the numbers agree, and the numbers."""

    statement: str
    agrees: bool
    evidence: str


def known(value: float | None) -> float:
    """A stored loss; a missing one stands for infinity."""
    return math.inf if value is None else value


def compared(statement: str, at: list[int], ours: list[float], theirs: list[float]) -> Claim:
    """Claim that our loss is smaller at every count."""
    triples = list(zip(at, ours, theirs, strict=True))
    evidence = "; ".join(f"{k}: {a:.2g} {'<' if a < b else '≥'} {b:.2g}" for k, a, b in triples)
    return Claim(statement, all(a < b for _, a, b in triples), evidence)


def print_claims(results: dict[str, Any]) -> None:
    """Print the claims of a figure with their verdicts."""
    print("\nclaims")
    for claim in results["claims"]:
        verdict = "agree" if claim["agrees"] else "does not agree"
        print(f"  {verdict:16s}{claim['statement']}\n{'':18}{claim['evidence']}")
