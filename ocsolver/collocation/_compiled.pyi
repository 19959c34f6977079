from collections.abc import Callable
from typing import Any

Arrays = tuple[Any, ...]

def residual(constants: Arrays, point: Arrays, mu: Any, values: Arrays, end: Arrays, results: Arrays) -> None: ...
def model(constants: Arrays, point: Arrays, mu: Any, values: Arrays, path: Arrays, results: Arrays) -> None: ...
def errors(constants: Arrays, point: Arrays, mu: Any, model: Arrays, results: Arrays) -> None: ...
def complete(constants: Arrays, point: Arrays, mu: Any, model: Arrays, direction: Arrays, results: Arrays) -> None: ...
def equations(constants: Arrays, point: Arrays, mu: Any, model: Arrays, results: Arrays) -> None: ...
def room(constants: Arrays, point: Arrays, share: Any, moves: Arrays, results: Arrays) -> None: ...
def shift(constants: Arrays, point: Arrays, alpha: Any, steps: Arrays, results: Arrays) -> None: ...
def multipliers(
    constants: Arrays,
    point: Arrays,
    mu: Any,
    moves: Arrays,
    values: Arrays,
    duals: Arrays,
    lengths: Arrays,
    results: Arrays,
) -> None: ...
def solve(tables: Arrays, inside: Arrays, ends: Arrays, active: Any, results: Arrays) -> bool: ...
def march(
    constants: Arrays,
    point: Arrays,
    mu: Any,
    known: Arrays,
    places: Arrays,
    numbers: Arrays,
    programs: Arrays,
    proceed: Callable[[], bool],
) -> tuple[int, int, int, int, bool, bool]: ...
def warm(
    sizes: Arrays, sides: Arrays, way: Arrays, old: Arrays, numbers: Arrays, results: Arrays, programs: Arrays
) -> bool: ...
def between(tables: Arrays, lengths: Arrays, inside: Arrays, sides: Arrays, results: Arrays) -> None: ...
def better(weights: Arrays, values: Arrays, control: Arrays, sides: Arrays, results: Arrays) -> None: ...
def estimate(
    rule: Arrays,
    tables: Arrays,
    ends: Arrays,
    mesh: Arrays,
    inside: Arrays,
    sides: Arrays,
    path: Arrays,
    grid: Arrays,
    results: Arrays,
    programs: Arrays,
) -> None: ...
