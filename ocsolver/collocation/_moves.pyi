from typing import Any

Arrays = tuple[Any, ...]

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
