from typing import Any

def run(program: tuple[Any, ...], inputs: tuple[Any, ...], outputs: tuple[Any, ...]) -> None: ...

simulate = run
