"""What functions refer to, by which it is told that they cannot have changed, without calling them."""

from __future__ import annotations

import builtins
import dis
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from operator import is_
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Captured"]

CONSTANT = (int, float, complex, str, bytes, type(None), type(...), np.generic, np.ufunc, torch.dtype, torch.device)
TRUSTED = {"builtins", "math", "numpy", "torch"}  # modules whose contents nobody changes
HARMLESS = {
    *("abs", "all", "any", "bool", "divmod", "enumerate", "filter", "float", "int", "isinstance", "len", "list"),
    *("map", "max", "min", "pow", "range", "reversed", "round", "slice", "sorted", "sum", "tuple", "zip"),
}  # functions of Python that see their arguments only
MOST_NUMBERS = 10_000  # of arrays, lists and dictionaries that are compared
IMPORT = dis.opmap["IMPORT_NAME"]
MADE = "<string>"  # where methods come from that `dataclass` writes, apart from the one that shows an object
MISSING = object()


class _UnknownError(Exception):
    """Something may change without being seen."""


class Captured:
    """Everything that some functions refer to: variables, numbers and other functions, as they are now."""

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._cells: list[tuple[Any, Any]] = []
        self._names: list[tuple[dict[str, Any], str, Any]] = []
        self._containers: list[tuple[Any, tuple[Any, ...]]] = []
        self._arrays: list[tuple[Any, Any]] = []
        self._functions: list[tuple[FunctionType, CodeType, Any]] = []

    @classmethod
    def of(cls, functions: Iterable[Any]) -> Captured | None:
        """What functions refer to; None where some of it may change unseen."""
        found = cls()
        try:
            for function in functions:
                found._take(function)
        except (_UnknownError, RecursionError, TypeError, ValueError):  # also of empty variables and of slots
            return None
        return found

    @property
    def unchanged(self) -> bool:
        """Whether all of it is as it was."""
        try:
            return (
                all(cell.cell_contents is value for cell, value in self._cells)
                and all(names.get(name, MISSING) is value for names, name, value in self._names)
                and all(
                    function.__code__ is code and function.__defaults__ is defaults
                    for function, code, defaults in self._functions
                )
                and all(_same(container, parts) for container, parts in self._containers)
                and all(_equal(array, copy) for array, copy in self._arrays)
            )
        except ValueError:  # a cell has been emptied
            return False

    def _take(self, value: Any) -> None:
        """Note what a value refers to."""
        if isinstance(value, CONSTANT) or id(value) in self._seen:
            return
        self._seen.add(id(value))
        if type(value) in (tuple, frozenset):
            for part in value:
                self._take(part)
        elif type(value) in (list, dict) and len(value) <= MOST_NUMBERS:
            parts = tuple(value.items() if type(value) is dict else value)
            self._containers.append((value, parts))
            for part in parts:
                self._take(part)
        elif isinstance(value, FunctionType):
            self._take_function(value)
        elif isinstance(value, (Tensor, np.ndarray)):
            self._take_array(value)
        elif is_dataclass(value):
            self._take_record(value)
        elif not _is_trusted(value):
            raise _UnknownError

    def _take_function(self, function: FunctionType) -> None:
        if function.__dict__ or function.__kwdefaults__:
            raise _UnknownError
        self._functions.append((function, function.__code__, function.__defaults__))
        self._take(function.__defaults__)
        for cell in function.__closure__ or ():
            self._cells.append((cell, cell.cell_contents))
            self._take(cell.cell_contents)
        for name in _names_of(function.__code__):  # attributes among them, which may be called like a variable
            value = function.__globals__.get(name, MISSING)
            self._names.append((function.__globals__, name, value))
            if value is not MISSING:
                self._take(value)
            elif hasattr(builtins, name) and name not in HARMLESS:
                raise _UnknownError

    def _take_array(self, value: Any) -> None:
        numbers = value.numel() if isinstance(value, Tensor) else value.size
        if type(value) not in (Tensor, np.ndarray) or numbers > MOST_NUMBERS:
            raise _UnknownError
        self._arrays.append((value, value.detach().clone() if isinstance(value, Tensor) else value.copy()))

    def _take_record(self, value: Any) -> None:
        """Of a dataclass its methods, and of an object of one its fields, too."""
        owner = value if isinstance(value, type) else type(value)
        if not all(is_dataclass(base) for base in owner.__mro__[:-1]):
            raise _UnknownError
        if value is not owner:
            self._take(owner)
            if vars(value).keys() != {entry.name for entry in fields(value)}:
                raise _UnknownError
            for name, part in vars(value).items():
                self._names.append((vars(value), name, part))
                self._take(part)
            return
        for base in owner.__mro__[:-1]:
            for name, part in vars(base).items():
                part = part.fget if isinstance(part, property) else part
                part = part.__func__ if isinstance(part, (staticmethod, classmethod)) else part
                made = name == "__repr__" or (isinstance(part, FunctionType) and part.__code__.co_filename == MADE)
                if not made and (name[:2] != "__" or isinstance(part, FunctionType)):
                    self._names.append((vars(base), name, vars(base)[name]))
                    self._take(part)


def _names_of(code: CodeType) -> Iterator[str]:
    """Names of variables and attributes in a function, and in those that it defines."""
    if IMPORT in code.co_code[::2]:
        raise _UnknownError
    yield from code.co_names
    for part in code.co_consts:
        if isinstance(part, CodeType):
            yield from _names_of(part)


def _is_trusted(value: Any) -> bool:
    """Modules, classes and functions of libraries that nobody changes."""
    if isinstance(value, BuiltinFunctionType):  # not a method of something that may change
        return value.__self__ is None or isinstance(value.__self__, (ModuleType, type))
    if isinstance(value, ModuleType):
        return value.__name__.partition(".")[0] in TRUSTED
    return isinstance(value, type) and value.__module__.partition(".")[0] in TRUSTED


def _same(container: Any, parts: tuple[Any, ...]) -> bool:
    """Whether a list or a dictionary holds what it held."""
    if type(container) is list:
        return len(container) == len(parts) and all(map(is_, container, parts))
    return len(container) == len(parts) and all(container.get(key, MISSING) is value for key, value in parts)


def _equal(array: Any, copy: Any) -> bool:
    """Whether an array is as it was, to the last bit."""
    same = torch.equal if isinstance(array, Tensor) else np.array_equal
    return array.dtype == copy.dtype and bool(same(array, copy))
