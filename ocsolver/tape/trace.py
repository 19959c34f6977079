"""From a function of tensors to expressions: the function runs once, and every operation is noted element by element.

Below autograd, torch knows few operations. Nodes are kept per storage, so views need no notes of their own: what they
show is read with their strides, and what is written into them stands where it belongs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ocsolver.tape.graph import Graph, Untraceable

__all__ = ["trace"]

Array = np.ndarray[Any, np.dtype[np.int64]]

LARGEST = 2000  # elements of one result


def trace(graph: Graph, function: Callable[..., Tensor], inputs: Sequence[tuple[Tensor, Array]]) -> Array:
    """Nodes of a function's result.

    Parameters
    ----------
    graph : Graph
        Where to put the expressions.
    function : callable
        A function of tensors in double precision.
    inputs : sequence of (Tensor, ndarray of int)
        Values to run it with, and the nodes that they stand for, of the same shapes.

    Returns
    -------
    ndarray of int
        Nodes, in the shape of the result.

    Raises
    ------
    Untraceable
        If the function does what expressions cannot: it branches on values, draws random numbers, or calls what is not
        known here. Errors of the function itself pass through.
    """
    recorder = _Recorder(graph)
    for tensor, nodes in inputs:
        recorder.write(tensor, nodes)
    with torch.no_grad(), recorder:
        result = function(*(tensor for tensor, _ in inputs))
    if not isinstance(result, Tensor) or result.dtype != torch.float64:
        raise Untraceable("the result is no tensor of doubles")
    return recorder.read(result)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes what every operation does to the nodes."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.graph = graph
        self.nodes: dict[int, Array] = {}  # per storage
        self.alive: list[Tensor] = []  # a storage that is freed would give its address to another

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here, so nothing has to be kept from it."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name, mutable, random = _known_as(func)
        if random:
            raise Untraceable(name)
        if name in ELEMENTWISE and not mutable and not kwargs:
            result = func(*args)
            if result.numel() == 1 and not result.is_complex():  # most operations by far are those of numbers
                self.write_number(result, name, args)
                return result
            return self.noted(func, name, args, kwargs, result)
        if mutable and self.depends(args, kwargs):
            if "out" in kwargs:
                raise Untraceable(f"{name} with out")
            nodes = self.mutation(name.removesuffix("_"), args[0], args, kwargs)
            result = func(*args, **kwargs)
            self.write(args[0], nodes)
            return result
        return self.noted(func, name, args, kwargs, func(*args, **kwargs))

    def noted(self, func: Any, name: str, args: Sequence[Any], kwargs: dict[str, Any], result: Any) -> Any:
        """A result, its nodes kept if it depends on what is traced."""
        parts = _flat((result,))
        self.alive += [part for part in parts if isinstance(part, Tensor)]
        if name in SHAPES or not self.depends(args, kwargs):
            return result  # constants
        if all(isinstance(part, Tensor) and self.known(part) for part in parts):
            return result  # views
        if not isinstance(result, Tensor):
            raise Untraceable(name)
        if result.numel() > LARGEST:
            raise Untraceable("too large")
        self.write(result, self.result(func, name, args, kwargs))
        return result

    def write_number(self, result: Tensor, name: str, args: Sequence[Any]) -> None:
        """Keep the node of an operation on tensors of one element and numbers, if one of them is traced."""
        self.alive.append(result)
        nodes = [self.nodes.get(a.untyped_storage()._cdata) if isinstance(a, Tensor) else None for a in args]
        if any(known is not None for known in nodes):
            constant = self.graph.constant
            parts = [
                constant(float(a)) if known is None else int(known[a.storage_offset()])
                for a, known in zip(args, nodes, strict=True)
            ]
            node = ELEMENTWISE[name](self.graph, *parts)
            self.nodes[result.untyped_storage()._cdata] = np.array([node])

    # ----------------------------------------------------------------- nodes

    def depends(self, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
        """Whether some of the arguments of an operation are traced."""
        return any(self.known(a) for a in _flat((*args, *kwargs.values())) if isinstance(a, Tensor))

    def known(self, tensor: Tensor) -> bool:
        """Whether nodes are kept of a tensor."""
        return tensor.untyped_storage()._cdata in self.nodes

    def read(self, value: Any) -> Array:
        """Nodes of a tensor or a number."""
        if not isinstance(value, Tensor):
            return np.array(self.graph.constant(float(value)))
        if not self.known(value):
            if value.is_complex():
                raise Untraceable("complex numbers")
            numbers = value.detach().cpu().to(torch.float64).numpy()
            if numbers.size > LARGEST:
                raise Untraceable("too large")
            constant = self.graph.constant
            return np.array([constant(number) for number in numbers.ravel().tolist()], np.int64).reshape(numbers.shape)
        return self.view(value).copy()

    def view(self, tensor: Tensor) -> Array:
        """The nodes of a tensor where they are kept."""
        nodes = self.nodes[tensor.untyped_storage()._cdata]
        strides = tuple(nodes.itemsize * stride for stride in tensor.stride())
        return np.ndarray(
            tuple(tensor.shape),
            np.int64,
            buffer=nodes.data,
            offset=nodes.itemsize * tensor.storage_offset(),
            strides=strides,
        )

    def write(self, tensor: Tensor, nodes: Array) -> None:
        """Keep the nodes of a tensor."""
        if not self.known(tensor):
            storage = tensor.untyped_storage()
            before = np.zeros(storage.nbytes() // tensor.element_size(), np.int64)
            self.nodes[storage._cdata] = before
            self.alive.append(tensor)
        self.view(tensor)[...] = nodes

    def mutation(self, name: str, target: Tensor, args: Sequence[Any], kwargs: dict[str, Any]) -> Array:
        """Nodes of a tensor after an operation in place."""
        if not self.known(target):  # it was constant so far
            storage = target.untyped_storage()
            whole = torch.empty(0, dtype=target.dtype).set_(storage)
            self.write(whole, self.read(whole))
        shape = tuple(target.shape)
        if name == "copy" and target.is_floating_point():
            return np.broadcast_to(self.read(args[1]), shape)
        if name in ("zero", "fill"):
            return np.broadcast_to(self.read(args[1] if name == "fill" else 0.0), shape)
        if name in ELEMENTWISE:
            return np.broadcast_to(self.elementwise(name, args, kwargs), shape)
        raise Untraceable(f"{name}_")

    def result(self, func: Any, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Array:
        """Nodes of a new tensor."""
        if name in ELEMENTWISE:
            return self.elementwise(name, args, kwargs)
        if name in MOVES:
            return self.move(func, name, args, kwargs)
        if name in REDUCTIONS:
            return self.reduction(name, args, kwargs)
        if name in PRODUCTS:
            return self.product(name, args, kwargs)
        raise Untraceable(name)

    def move(self, func: Any, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Array:
        """An operation that only copies elements: done with the nodes in their place."""
        if name in INDEXED:
            if any(isinstance(a, Tensor) and self.known(a) for a in _flat(args[1:])):
                raise Untraceable(f"{name} by values")
            args = (self._swapped(args[0]), *args[1:])
        else:
            args = [self._swapped(a) for a in args]
        if name == "_to_copy":
            if kwargs.get("dtype", torch.float64) != torch.float64:
                raise Untraceable(f"{name} to {kwargs['dtype']}")
            kwargs = {**kwargs, "dtype": torch.int64}
        return np.asarray(func(*args, **kwargs).numpy())

    def _swapped(self, value: Any) -> Any:
        """Tensors replaced by their nodes."""
        if isinstance(value, Tensor):
            return torch.from_numpy(self.read(value))
        return [self._swapped(part) for part in value] if isinstance(value, (list, tuple)) else value

    # ------------------------------------------------------------ operations

    def elementwise(self, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Array:
        """An operation on elements."""
        function = ELEMENTWISE[name]
        alpha = kwargs.get("alpha", 1)
        if set(kwargs) - {"alpha"}:
            raise Untraceable(f"{name} with {sorted(kwargs)}")
        parts = [self.read(a) for a in args]
        if alpha != 1:
            scale = self.graph.constant(alpha)
            parts[1] = self._each(lambda graph, a: graph.binary("mul", a, scale), [parts[1]])
        return self._each(function, parts)

    def _each(self, function: Callable[..., int], parts: Sequence[Array]) -> Array:
        if all(part.size == 1 for part in parts):
            node = function(self.graph, *(int(part.ravel()[0]) for part in parts))
            return np.full(max((part.shape for part in parts), key=len), node)
        whole = np.broadcast_arrays(*parts) if len(parts) > 1 else parts
        columns = [part.ravel().tolist() for part in whole]
        graph = self.graph
        return np.array([function(graph, *row) for row in zip(*columns, strict=True)], np.int64).reshape(whole[0].shape)

    def reduction(self, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Array:
        """Sums and means over axes."""
        nodes = self.read(args[0])
        axes = args[1] if len(args) > 1 else kwargs.get("dim")
        keep = bool(args[2]) if len(args) > 2 else bool(kwargs.get("keepdim", False))
        if not axes:
            axes = range(nodes.ndim)
        axes = tuple(int(axis) % nodes.ndim for axis in ([axes] if isinstance(axes, int) else axes))
        moved = np.moveaxis(nodes, axes, tuple(range(len(axes))))
        rows = moved.reshape(-1, *moved.shape[len(axes) :])
        count = len(rows)
        total = self._each(lambda graph, *row: graph.total(row), list(rows)) if count else rows.sum(0)
        if name == "mean":
            total = self._each(lambda graph, a: graph.binary("div", a, graph.constant(count)), [total])
        return np.expand_dims(total, axes) if keep else total

    def product(self, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Array:
        """Products of matrices and vectors."""
        if kwargs:
            raise Untraceable(f"{name} with {sorted(kwargs)}")
        first, a, b = (None, *args) if name in ("mm", "bmm", "mv", "dot") else args
        left, right = self.read(a), self.read(b)
        if name in ("mv", "addmv", "dot"):
            right = right[..., None]
        left = left[None] if name == "dot" else left
        graph = self.graph

        def entry(row: Sequence[int], column: Sequence[int]) -> int:
            return graph.total(graph.binary("mul", x, y) for x, y in zip(row, column, strict=True))

        shape = (*left.shape[:-1], right.shape[-1])
        out = np.empty(shape, np.int64)
        for index in np.ndindex(*shape):
            *batch, i, j = index
            row, column = left[(*batch, i)], right[(*batch, slice(None), j)]
            out[index] = entry(row.tolist(), column.tolist())
        out = out.reshape(()) if name == "dot" else out[..., 0] if name in ("mv", "addmv") else out
        return (
            out if first is None else self._each(lambda graph, a, b: graph.binary("add", a, b), [self.read(first), out])
        )


@cache
def _known_as(func: Any) -> tuple[str, bool, bool]:
    """Name of an operation, whether it writes into its arguments, and whether it is random."""
    random = torch.Tag.nondeterministic_seeded in func.tags
    return func._schema.name.removeprefix("aten::"), func._schema.is_mutable, random


def _flat(values: Any) -> list[Any]:
    """All that lists and tuples contain."""
    found: list[Any] = []
    for value in values:
        if isinstance(value, (list, tuple)):
            found += _flat(value)
        else:
            found.append(value)
    return found


def _unary(name: str) -> Callable[..., int]:
    return lambda graph, a: graph.unary(name, a)


def _binary(name: str) -> Callable[..., int]:
    return lambda graph, a, b: graph.binary(name, a, b)


def _sigmoid(graph: Graph, a: int) -> int:
    return graph.binary("div", graph.one, graph.binary("add", graph.one, graph.unary("exp", graph.unary("neg", a))))


def _differ(graph: Graph, a: int, b: int) -> int:
    return graph.binary("sub", graph.one, graph.binary("equal", a, b))


def _truth(graph: Graph, a: int) -> int:
    return _differ(graph, a, graph.zero)


# bitwise operations are those of masks: integers are not traced
ELEMENTWISE: dict[str, Callable[..., int]] = {
    **{
        name: _unary(name)
        for name in ("neg", "sqrt", "exp", "expm1", "log", "log1p", "sin", "cos", "tan", "asin", "acos", "atan", "sinh")
    },
    **{name: _unary(name) for name in ("cosh", "tanh")},
    **{name: _binary(name) for name in ("add", "sub", "mul", "div", "pow", "atan2")},
    "true_divide": _binary("div"),
    "rsub": lambda graph, a, b: graph.binary("sub", b, a),
    "reciprocal": lambda graph, a: graph.binary("div", graph.one, a),
    "rsqrt": lambda graph, a: graph.binary("div", graph.one, graph.unary("sqrt", a)),
    "square": lambda graph, a: graph.binary("mul", a, a),
    "sigmoid": _sigmoid,
    "addcmul": lambda graph, a, b, c: graph.binary("add", a, graph.binary("mul", b, c)),
    "addcdiv": lambda graph, a, b, c: graph.binary("add", a, graph.binary("div", b, c)),
    "lt": _binary("less"),
    "le": _binary("atmost"),
    "gt": lambda graph, a, b: graph.binary("less", b, a),
    "ge": lambda graph, a, b: graph.binary("atmost", b, a),
    "eq": _binary("equal"),
    "ne": _differ,
    **dict.fromkeys(("logical_not", "bitwise_not"), lambda graph, a: graph.binary("equal", a, graph.zero)),
    **dict.fromkeys(
        ("logical_and", "bitwise_and"), lambda graph, a, b: graph.binary("mul", _truth(graph, a), _truth(graph, b))
    ),
    **dict.fromkeys(
        ("logical_or", "bitwise_or"),
        lambda graph, a, b: _truth(graph, graph.binary("add", _truth(graph, a), _truth(graph, b))),
    ),
    "where": lambda graph, c, a, b: graph.select(c, a, b),
}
INDEXED = {"index", "index_select", "gather"}
MOVES = {"cat", "stack", "clone", "repeat", "flip", "roll", "_to_copy", *INDEXED}
REDUCTIONS = {"sum", "mean"}
PRODUCTS = {"mm", "bmm", "mv", "dot", "addmm", "addmv", "baddbmm"}
SHAPES = {"zeros_like", "ones_like", "new_zeros", "new_ones", "new_full", "new_empty", "empty_like", "full_like"}
SHAPES |= {"new_empty_strided"}
