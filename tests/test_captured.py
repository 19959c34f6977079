"""What functions refer to: a change of any of it is seen, or it is said that some of it cannot be."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import ocsolver as oc
from ocsolver.collocation.captured import Captured

STRENGTH = 1.0
TABLE = {"strength": 1.0}


@dataclass
class Settings:
    """Parameters of a function, and a method that uses another one."""

    strength: float = 1.0
    offset: Tensor | None = None

    def doubled(self) -> float:
        """Twice the strength, and a global variable."""
        return 2.0 * self.strength * STRENGTH


@dataclass
class Slotted:
    """Parameters without a dictionary."""

    __slots__ = ("strength",)


def of_closures() -> tuple[Callable[..., Any], dict[str, Callable[[], Any]]]:
    """A function, and changes of all it refers to."""
    number, listed, named, array, tensor = 1.0, [1.0, 2.0], {"a": 1.0}, np.ones(2), torch.ones(2)
    settings = Settings(1.0, torch.ones(1))

    def inner(x: Tensor, scale: float = 2.0) -> Tensor:
        return scale * number * x

    def function(x: Tensor) -> Tensor:
        parts = [math.sin(value) for value in listed]
        known = named["a"] + array.sum() + tensor.sum() + settings.doubled() + TABLE["strength"]
        return inner(x) + sum(parts) + known

    def set_number() -> None:
        nonlocal number
        number = 1.5

    def set_inner() -> None:
        nonlocal inner
        inner = lambda x, scale=2.0: x

    def put(container: Any, key: Any, value: Any) -> Callable[[], None]:
        return lambda: container.__setitem__(key, value)

    changes = {
        "number": set_number,
        "function": set_inner,
        "defaults": lambda: setattr(inner, "__defaults__", (3.0,)),
        "code": lambda: setattr(inner, "__code__", (lambda x, scale=2.0: scale * number * x).__code__),
        "list": lambda: listed.append(3.0),
        "entry of a list": put(listed, 0, 5.0),
        "dictionary": put(named, "b", 1.0),
        "entry of a dictionary": put(named, "a", 2.0),
        "array": put(array, 0, 7.0),
        "tensor": lambda: tensor.mul_(2.0),
        "tensor behind its back": lambda: put(tensor.numpy(), 0, 7.0)(),
        "field": lambda: setattr(settings, "strength", 3.0),
        "tensor in a field": lambda: settings.offset.add_(1.0),
    }
    return function, changes


@pytest.mark.parametrize("change", sorted(of_closures()[1]))
def test_changes_of_what_a_closure_refers_to_are_seen(change: str) -> None:
    """Each by itself; what does not change is known not to."""
    function, changes = of_closures()
    captured = Captured.of([function, None])
    assert captured is not None
    assert captured.unchanged
    changes[change]()
    assert not captured.unchanged


@pytest.mark.parametrize("name", ["STRENGTH", "torch"])
def test_changes_of_globals_are_seen(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Of functions, of those they define, and of methods of what they refer to."""
    settings = Settings()
    for function in (lambda x: torch.sin(x) * STRENGTH, lambda x: [torch.sin(y) * STRENGTH for y in x]):
        captured = Captured.of([function])
        assert captured is not None
        with monkeypatch.context() as patch:
            patch.setitem(globals(), name, object())
            assert not captured.unchanged
        assert captured.unchanged
    captured = Captured.of([lambda x: settings.doubled() * x])
    assert captured is not None
    with monkeypatch.context() as patch:
        patch.setitem(globals(), "STRENGTH", 2.0)
        assert not captured.unchanged
    with monkeypatch.context() as patch:
        patch.setattr(Settings, "doubled", lambda self: 1.0)
        assert not captured.unchanged


def imports(x: Tensor) -> Tensor:
    """Of a module that may change."""
    from ocsolver import status

    return x * len(status.Status)


def test_what_may_change_unseen_is_said_to() -> None:
    """Objects of any class, methods, modules of users, files, and functions with attributes."""
    thing, counted = SimpleNamespace(strength=1.0), lambda x: x
    counted.calls = 0  # type: ignore[attr-defined]
    module, many, slotted = torch.nn.Linear(1, 1), [1.0] * 20_000, Slotted()
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    functions: list[Callable[..., Any]] = [
        lambda x: thing.strength * x,
        lambda x: oc.Status * x,
        lambda x: float(open("rate").read()) * x,  # noqa: SIM115
        lambda x: getattr(x, "T"),  # noqa: B009
        lambda x: module(x),
        counted,
        imports,
        module.forward,
        [1.0].count,
        lambda x: many[0] * x,
        lambda x: deep[0] * x,
        lambda x: slotted.strength * x,
        lambda x: later * x,
    ]
    for function in functions:
        assert Captured.of([function]) is None
    later = 1.0
