"""How a group of trajectories can end; it knows nothing of how it got there."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["Status"]


class Status(IntEnum):
    """Outcome of a run, one per control group; values ≥ 0 are successes.

    Examples
    --------
    >>> from ocsolver import Status
    >>> Status.CONVERGED >= 0, Status.DIVERGED >= 0
    (True, False)
    >>> Status.COMPLETED.advice
    'the requested number of iterations was run (tolerance=None)'
    """

    advice: str

    def __new__(cls, value: int, advice: str) -> Status:
        member = int.__new__(cls, value)
        member._value_ = value
        member.advice = advice
        return member

    CONVERGED = 0, "the maximum-principle residual is below the tolerance"
    COMPLETED = 1, "the requested number of iterations was run (tolerance=None)"
    STOPPED = 2, "the callback asked to stop"
    RUNNING = -1, "the run has not ended"
    INTERRUPTED = -2, "interrupted from the keyboard; the best iterate is returned: pass it as initial_control to go on"
    MAX_ITERATIONS = (
        -3,
        "the iterations ran out above the tolerance: raise max_iterations, or go on from this solution "
        "(initial_control=solution)",
    )
    MAX_SECONDS = (
        -4,
        "the time ran out above the tolerance: raise max_seconds, or go on from this solution "
        "(initial_control=solution)",
    )
    STALLED = (
        -5,
        "nothing moves although the residual is above the tolerance: loosen the tolerance, tighten the integrator, "
        "or try another maximizer or initial control",
    )
    DIVERGED = (
        -6,
        "cost or residual exceeded 1e4 times its first value: use EMSA with AdaptivePenalty, a larger rho or a smaller "
        "relaxation",
    )
    NONFINITE = -7, "a callable returned NaN or infinity: check it at the time and component named in the message"
    INTEGRATION_FAILED = (
        -8,
        "the state could not be integrated: try a finer mesh, another integrator or a better initial control",
    )
    INFEASIBLE = (
        -9,
        "the constraints could not be met, and this is the least violation that was found: check them against the "
        "bounds, the horizon and each other, or start from a better initial control",
    )
