"""How the side-by-side benchmark measures: refine until the re-simulated cost is right, then time that mesh alone."""

from __future__ import annotations

import contextlib
import io
import math
import multiprocessing
import os
import resource
import signal
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from multiprocessing.connection import Connection
from typing import Any, Protocol

from scripts._peers_resimulate import Answer, resimulate
from scripts._peers_statements import Statement

__all__ = [
    "ACCURACY",
    "COLD",
    "TIMES",
    "WARM",
    "Peer",
    "fastest",
    "geometric_mean",
    "processor_time",
    "quiet",
    "refine",
    "summarize",
    "time_all",
]

PREBUILT = 20.0  # time from scratch, relative to the fastest of its toolkit, of what may still be the fastest warm
SLACK = 3.0  # one refinement may take this many times the limit of all before it is stopped
ACCURACY = 1e-6  # of the re-simulated cost, relative to max(1, |J*|), and of the fixed final states


COLD, WARM = "median_processor_seconds", "median_warm_processor_seconds"  # the machine has other work to do
TIMES = ("seconds", "processor_seconds", "warm_seconds", "warm_processor_seconds")


class Peer(Protocol):
    """One way to solve a statement with one toolkit."""

    @property
    def name(self) -> str:
        """What the tables call it."""
        ...

    @property
    def tool(self) -> str:
        """The toolkit."""
        ...

    @property
    def meshes(self) -> tuple[int, ...]:
        """Refinements, from a natural start."""
        ...

    @property
    def evidence(self) -> str:
        """What it offers as evidence of optimality."""
        ...

    def solve(self, statement: Statement, mesh: int) -> Answer:
        """From the statement to the answer."""
        ...

    def prepare(self, statement: Statement, mesh: int) -> Callable[[], Answer] | None:
        """The second solve, from another initial state, with everything that can be kept already made."""
        ...


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the prints and warnings of the toolkits, which are no part of the time that is measured."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def processor_time() -> float:
    """Processor seconds of this process and of those that it started and that have ended."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


def timed(action: Callable[[], Answer]) -> tuple[float, float, Answer]:
    """Seconds, processor seconds and answer."""
    with quiet():
        begin, processor = time.perf_counter(), processor_time()
        answer = action()
        return time.perf_counter() - begin, processor_time() - processor, answer


def judge(statement: Statement, answer: Answer) -> dict[str, Any]:
    """Errors of an answer, reported and re-simulated."""
    truth, size = resimulate(statement, answer.control()), max(1.0, abs(statement.cost))
    extra = answer.extra()
    error = (truth.cost - statement.cost) / size
    return {
        "reported_error": (answer.cost - statement.cost) / size,
        "resimulated_error": error,
        "miss": truth.miss,
        "violation": truth.violation,
        "success": answer.success,
        "message": answer.message[:80],
        **extra,
        "qualified": abs(error) <= ACCURACY and truth.miss <= ACCURACY and extra.get("certified", True) is True,
    }


def steps(peer: Peer, statement: Statement, limit: float) -> Iterator[dict[str, Any]]:
    """Every refinement of one peer until one qualifies or its processor time is over; errors are data here."""
    spent = last = 0.0
    for mesh in peer.meshes:
        if spent + last > limit:
            return
        begin, processor = time.perf_counter(), processor_time()
        try:
            seconds, last, answer = timed(partial(peer.solve, statement, mesh))
            step = {"mesh": mesh, "seconds": seconds, "processor_seconds": last, **judge(statement, answer)}
        except Exception as error:  # whatever a toolkit raises
            seconds, last = time.perf_counter() - begin, processor_time() - processor
            message = f"{type(error).__name__}: {error}".splitlines()[0][:120]
            step = {"mesh": mesh, "seconds": seconds, "message": message, "qualified": False}
        yield step
        if step["qualified"]:
            return
        spent += last


def watched(items: Iterator[Any], limit: float) -> tuple[list[Any], str | None]:
    """What an iterator yields in a process of its own, and what became of it: a compiled solver may hang or crash."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=send_all, args=(items, limit, sender))
    process.start()
    sender.close()
    found: list[Any] = []
    deadline = time.monotonic() + 10.0 * SLACK * limit
    item: Any = ()
    try:
        while item is not None and receiver.poll(max(0.0, deadline - time.monotonic())):
            item = receiver.recv()
            if item is not None:
                found.append(item)
    except EOFError:
        pass
    process.join(timeout=1.0)
    died = process.exitcode
    if process.pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # and what it started
    process.join()
    if item is None:
        return found, None
    over = died in (None, -signal.SIGXCPU, -signal.SIGKILL)
    return found, f"no answer within {SLACK * limit:g} s" if over else "crashes"


def send_all(items: Iterator[Any], limit: float, sender: Connection) -> None:
    """Send what an iterator yields, and None at last, from a process group with a bound on its processor time."""
    os.setpgrp()
    most = int(SLACK * limit) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (most, most))
    for item in items:
        sender.send(item)
    sender.send(None)


def isolated(peer: Peer, items: Iterator[Any], limit: float) -> tuple[list[Any], str | None]:
    """What an iterator yields: ours in this process, the others in their own."""
    if peer.tool != "ocsolver":
        return watched(items, limit)
    found: list[Any] = []
    try:
        found.extend(items)
    except Exception as error:  # reported, as for the others
        return found, f"{type(error).__name__}: {error}".splitlines()[0][:120]
    return found, None


def warm_runs(peer: Peer, statement: Statement, mesh: int, repeats: int) -> Iterator[tuple[float, float]]:
    """Seconds and processor seconds of the second solve, after one that is not measured."""
    with quiet():
        action = peer.prepare(statement, mesh)
    if action is None:
        return
    timed(action)
    for _ in range(repeats):
        seconds, processor, _ = timed(action)
        yield seconds, processor


def refine(peer: Peer, statement: Statement, limit: float) -> dict[str, Any]:
    """Refine one peer on one problem; ours in this process, the others in their own."""
    found, failure = isolated(peer, steps(peer, statement, limit), limit)
    if failure:
        found.append({"mesh": None, "seconds": None, "message": failure, "qualified": False})
    last = found[-1] if found else {"qualified": False}
    return {
        "tool": peer.tool,
        "steps": found,
        "mesh": last["mesh"] if last["qualified"] else None,
        **{key: [] for key in TIMES},
    }


def time_all(
    peers: Sequence[Peer],
    statements: Sequence[Statement],
    runs: dict[str, dict[str, Any]],
    repeats: int,
    limit: float,
) -> None:
    """Time the qualified meshes, peers interleaved: statement to answer, and in as many rounds the warm second solve.

    What was far slower than the fastest way of the same toolkit when it was refined is out of the race, and not timed.
    """

    def raced(id: str, name: str, factor: float) -> bool:
        """Whether a peer qualified and is not far slower than the fastest way of its toolkit."""
        qualified = {key: run for key, run in runs[id].items() if run["mesh"] is not None}
        if name not in qualified:
            return False
        best = {key: min(run["processor_seconds"] or [run["steps"][-1]["seconds"]]) for key, run in qualified.items()}
        rivals = [best[key] for key, run in qualified.items() if run["tool"] == qualified[name]["tool"]]
        return bool(best[name] <= factor * min(rivals))

    def near(id: str, run: dict[str, Any]) -> bool:
        """Whether the warm solves of a peer so far are not far slower than those of the fastest of the others."""
        others = [own["warm_processor_seconds"] for own in runs[id].values() if own["tool"] != "ocsolver"]
        best = min((min(seconds) for seconds in others if seconds), default=math.inf)
        return run["tool"] == "ocsolver" or min(run["warm_processor_seconds"], default=0.0) <= 3.0 * best

    for repeat in range(repeats):
        for statement in statements:
            for peer in peers:
                if not raced(statement.id, peer.name, 5.0):
                    continue
                run = runs[statement.id][peer.name]
                if repeat and run["seconds"] and run["seconds"][-1] > 2.0:
                    continue
                seconds, processor, _ = timed(partial(peer.solve, statement, run["mesh"]))
                run["seconds"].append(seconds)
                run["processor_seconds"].append(processor)
    for statement, _, peer in product(statements, range(repeats), peers):
        run = runs[statement.id].get(peer.name, {})
        if raced(statement.id, peer.name, PREBUILT) and "warm_message" not in run and near(statement.id, run):
            found, failure = isolated(peer, warm_runs(peer, statement, run["mesh"], repeats), limit)
            if not found and failure is None:
                failure = "nothing is kept between solves"
            for seconds, processor in found:
                run["warm_seconds"].append(seconds)
                run["warm_processor_seconds"].append(processor)
            if failure:
                run["warm_message"] = failure
    for statement in statements:
        for run in runs[statement.id].values():
            for key in TIMES:
                run[f"median_{key}"] = statistics.median(run[key]) if run[key] else None


def geometric_mean(values: Sequence[float]) -> float | None:
    """Geometric mean, None of nothing."""
    return math.exp(statistics.fmean(math.log(value) for value in values)) if values else None


def fastest(runs: dict[str, Any], key: str, tool: str | None = None) -> tuple[str, float] | None:
    """Name and seconds of the fastest peer that qualified, of one toolkit or of all but ours."""
    times = [
        (run[key], name)
        for name, run in runs.items()
        if run[key] is not None and (run["tool"] == tool if tool else run["tool"] != "ocsolver")
    ]
    return (min(times)[1], min(times)[0]) if times else None


def summarize(statements: Sequence[Statement], runs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Time of the fastest peer relative to ours: geometric means over the problems, and the least."""
    ratios: dict[str, dict[str, float]] = {"cold": {}, "warm": {}}
    missing = []
    for statement in statements:
        for label, key in (("cold", COLD), ("warm", WARM)):
            ours, peer = (fastest(runs[statement.id], key, tool) for tool in ("ocsolver", None))
            if ours and peer:
                ratios[label][statement.id] = peer[1] / ours[1]
            elif peer and label == "cold":
                missing.append(statement.id)
    hard = [ratio for id, ratio in ratios["cold"].items() if next(s for s in statements if s.id == id).kind != "smooth"]
    return {
        "ratios": ratios,
        "all": geometric_mean(list(ratios["cold"].values())),
        "bounds_jumps_state": geometric_mean(hard),
        "least": min(ratios["cold"].values(), default=None),
        "warm": geometric_mean(list(ratios["warm"].values())),
        "ours_missing": missing,
    }
