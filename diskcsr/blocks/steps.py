"""What is done to the values of a block, element by element, when it is read.

A step changes values where they are and stores no new ones: the elements that are not stored are
zeros, and whatever is done to a zero must give one. Multiplying and dividing are taken, as scipy
takes them, to leave zeros alone even where the factor is not finite.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

__all__ = ["Step", "as_array", "cast_step", "function_step", "ufunc_step"]

#: Of these scipy leaves what is not stored alone, whatever the other operand holds.
_KEEP_ZEROS = (np.multiply, np.divide, np.true_divide)
#: Of these an element may become zero where it is stored, which scipy then does not store.
_COMPARISONS = (
    np.equal, np.not_equal, np.less, np.less_equal, np.greater, np.greater_equal,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Step:
    """One elementwise operation.

    Attributes
    ----------
    function : callable
        Of an array of values and, where there is one, the other operand; elementwise.
    name : str
        For people.
    operand : None, scalar or (n,) array
        The other operand.
    along : {None, "major", "minor"}
        Which lines an operand of more than one number belongs to.
    first : bool
        Whether the operand is the function's first argument.
    linear : bool
        Whether it may be done to elements of one place before these are added up.
    drops : bool
        Whether elements that become zero are no longer stored.
    dtype : numpy.dtype
        Of the result.
    """

    function: Callable[..., Any]
    name: str
    operand: Any
    along: Literal["major", "minor"] | None
    first: bool
    linear: bool
    drops: bool
    dtype: np.dtype

    def __call__(
        self, values: np.ndarray, lines: Any, minors: np.ndarray, indptr: np.ndarray
    ) -> np.ndarray:
        """Do it to the values of a block.

        Parameters
        ----------
        values : (k,) array
        lines : range or (n,) int64 array
            The block's lines along the major axis.
        minors : (k,) array
            Where the elements are along the minor axis.
        indptr : (n + 1,) array
            Where the elements of each line begin.
        """
        if self.operand is None:
            return self._checked(self.function(values), values)
        operand = self.operand
        if self.along == "major":
            operand = np.repeat(operand[as_array(lines)], np.diff(indptr))
        elif self.along == "minor":
            operand = operand[minors]
        with np.errstate(divide="ignore", invalid="ignore"):
            arguments = (operand, values) if self.first else (values, operand)
            return self._checked(self.function(*arguments), values)

    def _checked(self, result: Any, values: np.ndarray) -> np.ndarray:
        result = np.asarray(result)
        if result.shape != values.shape:
            raise ValueError(
                f"{self.name} must give a value for each of {values.size}, but gave an array of "
                f"shape {result.shape}"
            )
        return result.astype(self.dtype, copy=False)

    def chosen(self, axis: Literal["major", "minor"], places: Any) -> "Step":
        """Return the same step for some of the lines along one axis."""
        if self.along != axis:
            return self
        return replace(self, operand=self.operand[as_array(places)])

    def __str__(self) -> str:
        if self.operand is None:
            return self.name
        what = repr(self.operand) if self.along is None else f"a value a {self.along} line"
        return f"{self.name}({what}, x)" if self.first else f"{self.name}(x, {what})"


def as_array(lines: Any) -> np.ndarray:
    """Return the numbers of lines as an array."""
    if isinstance(lines, range):
        return np.arange(lines.start, lines.stop, lines.step)
    return lines


def ufunc_step(
    ufunc: np.ufunc,
    dtype: np.dtype,
    operand: Any = None,
    along: Literal["major", "minor"] | None = None,
    first: bool = False,
) -> Step:
    """Return the step that applies a ufunc.

    Raises
    ------
    TypeError
        When it gives something else than a number.
    ValueError
        When it does not give zero for zero.
    """
    zero = np.zeros(1, dtype)
    name = ufunc.__name__
    arguments: tuple[Any, ...] = (zero,)
    if operand is not None:
        arguments = (operand, zero) if first else (zero, operand)
    with np.errstate(all="ignore"):
        result = ufunc(*arguments)
    keeps = ufunc in _KEEP_ZEROS and not (first and ufunc is not np.multiply)
    if not keeps:
        _check_zeros(name, result, operand)
    kept = result.dtype if keeps or operand is None else ufunc(*arguments).dtype
    linear = keeps or ufunc in (np.negative, np.positive, np.conjugate)
    return Step(ufunc, name, operand, along, first, linear, ufunc in _COMPARISONS, kept)


def function_step(function: Callable[[np.ndarray], Any], dtype: np.dtype, result: Any) -> Step:
    """Return the step that applies a function of arrays to values; `result` is the dtype or None.

    Raises
    ------
    TypeError
        When it gives something else than numbers.
    ValueError
        When it is not elementwise, or does not give zero for zero.
    """
    name = getattr(function, "__name__", None) or repr(function)
    with np.errstate(all="ignore"):
        given = np.asarray(function(np.zeros(2, dtype)))
    if given.shape != (2,):
        raise ValueError(
            f"{name} must take an array of values and return one of the same shape, but of shape "
            f"(2,) it made {given.shape}"
        )
    _check_zeros(name, given, None)
    kept = given.dtype if result is None else np.dtype(result)
    return Step(function, name, None, None, False, False, False, kept)


def cast_step(before: np.dtype, dtype: np.dtype) -> Step:
    """Return the step that casts values; to less precise ones only after duplicates are added."""
    linear = np.can_cast(before, dtype, "safe") and before.kind == dtype.kind
    return Step(np.asarray, f"astype {dtype}", None, None, False, linear, False, dtype)


def _check_zeros(name: str, result: np.ndarray, operand: Any) -> None:
    if result.dtype.kind not in "biufc":
        raise TypeError(f"{name} does not give numbers but {result.dtype}")
    if (result == 0).all():
        return
    found = result[~(result == 0)][0]
    with_what = "" if operand is None else " with this operand"
    # No TypeError: numpy's functions would take it for a method that does not fit.
    raise ValueError(
        f"{name}{with_what} makes {found} of a zero: all that is not stored would have to be "
        "stored. Of some rows at a time it can be done densely: A[rows].toarray()"
    )
