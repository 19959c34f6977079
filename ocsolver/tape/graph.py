"""Scalar expressions, each stored once; the graph knows neither tensors nor what its variables mean.

A node is a number; its arguments have smaller numbers, so the order of the numbers is one of evaluation. What is exact
is simplified: zeros and ones disappear, constants are folded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

__all__ = ["BINARY", "UNARY", "Graph", "Untraceable"]

Key = tuple[Any, ...]

UNARY: dict[str, Callable[[Any], Any]] = {
    "neg": np.negative,
    "sqrt": np.sqrt,
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "tanh": np.tanh,
}
BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "pow": np.power,
    "atan2": np.arctan2,
    "less": lambda a, b: np.less(a, b) * 1.0,
    "atmost": lambda a, b: np.less_equal(a, b) * 1.0,
    "equal": lambda a, b: np.equal(a, b) * 1.0,
}
LARGEST_POWER = 4  # that is multiplied out
MOST_NODES = 10_000


class Untraceable(Exception):  # noqa: N818
    """A function does something that expressions cannot, or needs too many of them."""


class Graph:
    """Expressions of named variables.

    Attributes
    ----------
    code : list of tuple
        Per node its operation and arguments: ``("input", name)``, ``("constant", value)``, ``("select", c, a, b)``,
        which is a where c is not zero and b elsewhere, or an operation of `UNARY` or `BINARY` and its nodes.
    """

    def __init__(self) -> None:
        self.code: list[Key] = []
        self._known: dict[Key, int] = {}
        self._special = {"add": self._add, "sub": self._sub, "mul": self._mul, "div": self._div, "pow": self._pow}
        self.zero, self.one = self.constant(0.0), self.constant(1.0)

    def node(self, *key: Any) -> int:
        """The node of an operation, a new one if it is not there."""
        found = self._known.get(key)
        if found is None:
            if len(self.code) >= MOST_NODES:
                raise Untraceable(f"more than {MOST_NODES} expressions")
            found = self._known[key] = len(self.code)
            self.code.append(key)
        return found

    def constant(self, value: float) -> int:
        """A number."""
        return self.node("constant", float(value))

    def input(self, name: Any) -> int:
        """A variable."""
        return self.node("input", name)

    def value(self, node: int) -> float | None:
        """The number that a node is, None if it is not constant."""
        key = self.code[node]
        return key[1] if key[0] == "constant" else None

    # ------------------------------------------------------------ operations

    def unary(self, name: str, a: int) -> int:
        """A function of one argument."""
        key = self.code[a]
        if key[0] == "constant":
            return self.constant(_quiet(UNARY[name], key[1]))
        if name == "neg" and key[0] == "neg":
            return int(key[1])
        if name == "neg" and key[0] == "sub":
            return self.node("sub", key[2], key[1])
        return self.node(name, a)

    def binary(self, name: str, a: int, b: int) -> int:
        """A function of two arguments."""
        special = self._special.get(name)
        return self._folded(name, a, b) if special is None else special(a, b)

    def _folded(self, name: str, a: int, b: int) -> int:
        x, y = self.value(a), self.value(b)
        if x is not None and y is not None:
            return self.constant(_quiet(BINARY[name], x, y))
        return self.node(name, a, b)

    def _add(self, a: int, b: int) -> int:
        if a == self.zero:
            return b
        if b == self.zero:
            return a
        if self.code[b][0] == "neg":
            return self._sub(a, int(self.code[b][1]))
        if self.code[a][0] == "neg":
            return self._sub(b, int(self.code[a][1]))
        return self._folded("add", min(a, b), max(a, b))

    def _sub(self, a: int, b: int) -> int:
        if b == self.zero:
            return a
        if a == b:
            return self.zero
        if a == self.zero:
            return self.unary("neg", b)
        if self.code[b][0] == "neg":
            return self._add(a, int(self.code[b][1]))
        return self._folded("sub", a, b)

    def _mul(self, a: int, b: int) -> int:
        if a > b:
            a, b = b, a  # zero and one are the first nodes
        if a == self.zero:
            return self.zero
        if a == self.one:
            return b
        for one, other in ((a, b), (b, a)):
            key = self.code[one]
            if key[0] == "neg":
                return self.unary("neg", self._mul(int(key[1]), other))
            if key[0] == "constant" and key[1] == -1.0:
                return self.unary("neg", other)
        return self._folded("mul", a, b)

    def _div(self, a: int, b: int) -> int:
        if a == self.zero:
            return self.zero
        if b == self.one:
            return a
        return self._folded("div", a, b)

    def _pow(self, a: int, b: int) -> int:
        exponent = self.value(b)
        if exponent is None or self.value(a) is not None:
            return self._folded("pow", a, b)
        if exponent == 0.5:
            return self.unary("sqrt", a)
        if exponent == int(exponent) and abs(exponent) <= LARGEST_POWER:
            result = self.one
            for _ in range(abs(int(exponent))):
                result = self._mul(result, a)
            return result if exponent >= 0 else self._div(self.one, result)
        return self.node("pow", a, b)

    def select(self, condition: int, a: int, b: int) -> int:
        """The node a where the condition is not zero, b elsewhere."""
        known = self.value(condition)
        if known is not None:
            return a if known != 0.0 else b
        return a if a == b else self.node("select", condition, a, b)

    def total(self, nodes: Iterable[int]) -> int:
        """Sum."""
        result = self.zero
        for node in nodes:
            result = self._add(result, node)
        return result

    # ----------------------------------------------------------------- order

    def needed(self, outputs: Iterable[int]) -> list[int]:
        """All nodes that outputs depend on, themselves included, in the order of evaluation."""
        seen = set()
        stack = list(outputs)
        while stack:
            node = stack.pop()
            if node not in seen:
                seen.add(node)
                key = self.code[node]
                if key[0] not in ("input", "constant"):
                    stack.extend(key[1:])
        return sorted(seen)


def _quiet(function: Callable[..., Any], *values: float) -> float:
    with np.errstate(all="ignore"):
        result = float(function(*values))
    return result if not math.isnan(result) else math.nan
