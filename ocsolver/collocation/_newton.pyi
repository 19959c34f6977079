from typing import Any

def solve(
    tables: tuple[Any, ...], inside: tuple[Any, ...], ends: tuple[Any, ...], active: Any, results: tuple[Any, ...]
) -> bool: ...
