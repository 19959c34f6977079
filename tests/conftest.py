"""What all tests share: assertions of the helpers are explained, threads are few, seeds are fixed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

pytest.register_assert_rewrite("helpers")

# Derandomized: the same examples in every run, and no deadline, because the first call of an operation is slow.
settings.register_profile("ocsolver", derandomize=True, deadline=None, max_examples=100)
settings.load_profile("ocsolver")

# Files that take long, the longest first: two processes that share the files then end at about the same time.
LONG = (
    *("test_solvers", "test_integrators", "test_collocation_references", "test_references", "test_documentation"),
    *(
        "test_certificate",
        "test_adjoints",
        "test_continuous",
        "test_oracles",
        "test_plotting",
        "test_augmented_lagrangian",
    ),
    *("test_hamiltonian", "test_collocation_parts", "test_collocation", "test_maximizers", "test_checkpoint"),
)


# Variants of parametrized tests that take longer than the others and differ from them least.
SLOW_VARIANTS = "adaptive_heun", "anderson-gradient"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow variants are marked. Long files come first; the order within a file, and of the others, is left."""
    for item in items:
        if any(variant in item.name for variant in SLOW_VARIANTS):
            item.add_marker(pytest.mark.slow)
    rank = {name: i for i, name in enumerate(LONG)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


@pytest.fixture(autouse=True)
def _fixed_seed() -> Iterator[None]:
    """The same random numbers in every test, whatever ran before, and torch's global state restored."""
    state, dtype = torch.get_rng_state(), torch.get_default_dtype()
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(dtype)
    torch.set_rng_state(state)


@pytest.fixture(params=[False, True], ids=["separate", "shared"])
def shared(request: pytest.FixtureRequest) -> bool:
    """One control per trajectory (G = B), and one for all (G = 1)."""
    value: bool = request.param
    return value
