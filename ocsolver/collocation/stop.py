"""When a run of collocation stops: by accuracy, iterations, time, or because a callback says so."""

from __future__ import annotations

import time

from ocsolver._record import record

__all__ = ["Stop", "Stopped"]


@record
class Stop:
    """When to stop."""

    max_iterations: int
    max_seconds: float | None
    tolerance: float | None
    begin: float

    @property
    def goal(self) -> float:
        """Error of J relative to its size."""
        return 1e-10 if self.tolerance is None else self.tolerance

    @property
    def fineness(self) -> float:
        """Error of the control to be reached inside of its bounds: that of J allows its square root, this asks more."""
        return min(max(1.5e-7 * (self.goal / 1e-9) ** 3, 2e-8), 1.0)

    def late(self) -> bool:
        """Whether the time is up."""
        return self.max_seconds is not None and time.perf_counter() - self.begin > self.max_seconds


class Stopped(Exception):  # noqa: N818
    """The callback asked to stop."""
