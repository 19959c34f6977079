from typing import Any

def run(
    code: Any,
    numbers: Any,
    registers: int,
    targets: Any,
    template: Any,
    inputs: tuple[Any, ...],
    outputs: tuple[Any, ...],
) -> None: ...

simulate = run
