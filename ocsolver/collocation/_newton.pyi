from typing import Any

def solve(
    tables: tuple[Any, ...], inside: tuple[Any, ...], ends: tuple[Any, ...], results: tuple[Any, ...]
) -> bool: ...
