"""Arithmetic: what scipy computes element by element, in memory, block by block."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from scipy.sparse import csr_array, issparse

from ..compute.elementwise import Lines, elementwise
from .handle import Handle

__all__ = ["Arithmetic"]

#: scipy's methods of one matrix and a second operand; and whether something may come out where only
#: the second one holds something.
_OF_TWO = {
    "__add__": True,
    "__radd__": True,
    "__sub__": True,
    "__rsub__": True,
    "__truediv__": False,
    "__eq__": True,
    "__ne__": True,
    "__lt__": True,
    "__le__": True,
    "__gt__": True,
    "__ge__": True,
    "multiply": False,
    "maximum": True,
    "minimum": True,
}
#: scipy's methods of one matrix alone; some take numbers besides.
_OF_ONE = (
    *("__abs__", "__neg__", "__round__", "power"),
    *("arcsin", "arcsinh", "arctan", "arctanh", "ceil", "deg2rad", "expm1", "floor", "log1p"),
    *("rad2deg", "rint", "sign", "sin", "sinh", "sqrt", "tan", "tanh", "trunc"),
)


class Arithmetic(Handle):
    """The part of a disk array that computes elementwise results."""

    def __mul__(self, other: Any) -> Any:
        return self.multiply(other)  # type: ignore[attr-defined]

    __rmul__ = __mul__

    @property
    def real(self) -> Any:
        """The real parts, in memory."""
        return self._elementwise(_named("real", lambda block: block.real))

    @property
    def imag(self) -> Any:
        """The imaginary parts, in memory."""
        return self._elementwise(_named("imag", lambda block: block.imag))

    def astype(self, dtype: Any, casting: str = "unsafe", copy: bool = True) -> Any:
        """Cast the values, in memory; self when there is nothing to do and `copy` is false."""
        if not copy and np.dtype(dtype) == self.dtype:
            return self
        cast = _named("astype", lambda block: block.astype(dtype, casting=casting, copy=False))
        return self._elementwise(cast)

    def _elementwise(self, operation: Callable, *others: Any, joins: bool = False) -> Any:
        """Return what `operation` makes of blocks of this, and of what lies beside them."""
        if others and others[0] is self:
            operation = _named(operation.__name__, partial(_with_itself, operation))
            others = ()
        rest = (_beside(other, self) if isinstance(other, Handle) else other for other in others)
        return elementwise(self._contents(), self._scipy_class, operation, *rest, joins=joins)


def _with_itself(operation: Callable, block: Any) -> Any:
    return operation(block, block)


def _beside(other: Any, array: Any) -> Any:
    """Return another array on disk as what may lie beside this one's lines."""
    if other._axis is not array._axis or other.shape != array.shape:
        return other.to_memory()
    shown = other._contents()
    return Lines(lambda first, last: other._rows(range(first, last)), shown, other._scipy_class)


def _named(name: str, function: Any) -> Any:
    function.__name__ = name
    return function


def _method_of_one(name: str) -> Callable:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return self._elementwise(_named(name, lambda block: getattr(block, name)(*args, **kwargs)))

    method.__doc__ = getattr(csr_array, name).__doc__
    return _named(name, method)


def _method_of_two(name: str, joins: bool) -> Callable:
    def operation(block: Any, part: Any) -> Any:
        # Of two sparse arrays scipy leaves a reflected difference to the other one.
        if name == "__rsub__" and issparse(part):
            return part - block
        # scipy below 1.16 looks beyond the shorter one's arrays instead.
        if name in ("maximum", "minimum") and issparse(part) and part.shape != block.shape:
            raise ValueError(f"inconsistent shapes {block.shape} and {part.shape}")
        return getattr(block, name)(part)

    _named(name, operation)

    def method(self: Any, other: Any) -> Any:
        return self._elementwise(operation, other, joins=joins)

    method.__doc__ = getattr(csr_array, name).__doc__
    return _named(name, method)


for _name in _OF_ONE:
    setattr(Arithmetic, _name, _method_of_one(_name))
for _name, _joins in _OF_TWO.items():
    setattr(Arithmetic, _name, _method_of_two(_name, _joins))
