"""``A.lazy``: arrays of which indexing and elementwise arithmetic make arrays like them."""

from collections.abc import Callable
from typing import Any, ClassVar, Literal, Self

import numpy as np
from scipy.sparse import issparse

from .. import interop
from ..axis import Axis
from ..blocks.contents import Contents
from ..blocks.joined import lacks_columns
from ..blocks.steps import Step, cast_step, function_step, ufunc_step
from ..blocks.view import View, view_of
from ..keys.selection import grid_of, normalize, outer
from ..storage.formats.conventions import ARRAYS
from .handle import Handle

__all__ = ["HasLazy", "Lazy", "common_columns", "lazy_array", "use_lazy_classes"]

#: What numpy calls when the other operand is an array of its own, and scipy's method for it.
_REFLECTED = {
    np.add: ("__add__", "__radd__"),
    np.subtract: ("__sub__", "__rsub__"),
    np.matmul: ("__matmul__", "__rmatmul__"),
    np.floor_divide: ("__floordiv__", "__rfloordiv__"),
}
_COMPARISONS = {
    "__eq__": np.equal, "__ne__": np.not_equal, "__lt__": np.less, "__le__": np.less_equal,
    "__gt__": np.greater, "__ge__": np.greater_equal,
}  # fmt: skip
#: Methods of scipy's classes that are a ufunc each.
_METHODS = (
    "sin", "tan", "arcsin", "arctan", "sinh", "arcsinh", "tanh", "arctanh", "rint", "sign",
    "expm1", "log1p", "deg2rad", "rad2deg", "floor", "ceil", "trunc", "sqrt",
)  # fmt: skip


def use_lazy_classes(classes: Any) -> None:
    """Be told, once, of the class for each axis."""
    for one in classes:
        Lazy._lazy_classes[one._axis] = one
    interop.HANDED.classes.update({one: one._scipy_class for one in Lazy._lazy_classes.values()})


def lazy_array(view: View) -> Any:
    """Return the array that shows a view."""
    self = Lazy._lazy_classes[view.axis]._over(view.source, "r", {})
    self._view = view
    return self


def common_columns(array: Any) -> Any:
    """Return an array of many files without the columns that not all of them have, if so opened."""
    count = lacks_columns(array._source)
    if count is None:
        return array
    if type(array) is not Handle._classes[array._axis, False] or array.mode != "r":
        array.close()
        raise ValueError(
            "join='inner' leaves out columns, which gives a lazy array: neither of the older "
            "flavour (spmatrix=True) nor of mode 'c'. join='outer' has them all"
        )
    return array.lazy[:, :count]


class HasLazy(Handle):
    """The part of a disk array that gives its lazy view."""

    @property
    def lazy(self) -> Any:
        """The same matrix, whose indexing and elementwise arithmetic are not computed.

        Rows and columns by slice, integers or mask; times or divided by numbers, rows and columns;
        numpy's functions that leave zeros alone; `map`, `astype` and comparisons give arrays like
        it. They are read and computed, block by block, by all that takes a disk array: sums and
        products, `iter_blocks`, `batches`, `diskcsr.write`. ``L.to_memory()`` computes one.

        Returns
        -------
        LazyCSR or LazyCSC
            What was handed out of this array (`data`, `indices`, `indptr`) so far is the truth for
            it; what is handed out later is not looked at.

        Examples
        --------
        >>> import diskcsr, numpy as np, os, scipy.sparse as sp, tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "m.h5")
        >>> A = diskcsr.write(path, sp.csr_array(np.array([[1.0, 3.0], [0.0, 2.0]])))
        >>> size = A.sum(axis=1)
        >>> L = A.lazy / size[:, None]
        >>> np.log1p(L * 4)[[1], :].toarray()
        array([[0.        , 1.60943791]])
        """
        return lazy_array(view_of(self._contents()))


class Lazy(Handle):
    """The part of a lazy array that differs from the array it is a view of."""

    __slots__ = ("_view",)

    _view: View
    _lazy_classes: ClassVar[dict[Axis, Any]] = {}

    @classmethod
    def _open(cls, file: Any, name: str | None = None, **kwargs: Any) -> Any:
        raise TypeError(
            f"{cls.__name__} is no class to open files with: use diskcsr.open(...).lazy"
        )

    # ----------------------------------------------------------------------------- what it shows

    @property
    def _file_shape(self) -> tuple[int, int]:
        return self._view.shape

    def _contents(self) -> Any:
        held = self._held()
        return Contents.in_memory(held, self._axis, self._shape) if held else self._view

    def _shown(self) -> View:
        """Return what is shown now as a view: of the arrays, once they were handed out."""
        return view_of(self._contents()) if self._held() else self._view

    def _hand_out(self, name: str) -> np.ndarray:
        with self._source.lock:
            if name not in self.__dict__:
                if not self._shared:
                    arrays = self._view.read(range(self._view.n_major))
                    self._shared.update(zip(ARRAYS, arrays, strict=True))
                # All three: of what is computed there is no other truth to go with one of them.
                for part, array in self._shared.items():
                    self.__dict__.setdefault(part, array)
            return self.__dict__[name]

    def __repr__(self) -> str:
        rows, columns = self.shape
        steps = len(self._view.steps)
        return (
            f"<{type(self).__name__} of shape ({rows}, {columns}) and dtype {self.dtype}, not "
            f"computed: {steps} step{'s' * (steps != 1)} over {self._source.where}>"
        )

    def __str__(self) -> str:
        return repr(self)

    def _repr_html_(self) -> str:
        """Return what notebooks show: `explain`, after what it is a view of."""
        from html import escape

        return f"<pre>{escape(repr(self))}\n{escape(self.explain())}</pre>"

    def explain(self) -> str:
        """Say what is done when this array is read, step by step, and what a read costs.

        Returns
        -------
        str
        """
        view, base = self._view, self._view.base
        majors, minors = self._axis.majors, self._axis.transposed.majors
        lines = [f"{base.source.where}: {base.shape[0]} x {base.shape[1]}, {base.dtype}"]
        what = "all" if view.n_major == base.n_major else f"{view.n_major} of {base.n_major}"
        lines.append(f"{what} {majors}: {view.elements} stored elements are read for them")
        if view.minors is not None:
            lines.append(f"{view.n_minor} of {base.n_minor} {minors}: the rest is read and dropped")
        if view.adds_up:
            lines.append("elements of one place are added up, where there are any")
        lines += [f"{step} -> {step.dtype}" for step in view.steps]
        return "\n".join(lines)

    @property
    def lazy(self) -> Self:
        """This array."""
        return self

    def refresh(self) -> None:
        """Refuse: what a lazy array shows is settled when it is made."""
        raise ValueError("a lazy array cannot be refreshed: refresh the array it was made from")

    def transpose(self, axes: Any = None, copy: bool = False) -> Any:
        """Return the lazy transpose; nothing is read unless `copy` is true."""
        if axes is not None:
            self._scipy_class((1, 1)).transpose(axes)  # scipy's own complaint about other axes
        if copy:
            return self.to_memory().transpose()
        return lazy_array(self._shown().transposed())

    T = property(transpose, doc="The lazy transpose; nothing is read.")

    def conjugate(self, copy: bool = True) -> Any:
        """Return the complex conjugate, lazily."""
        return self._applied(np.conjugate) if self.dtype.kind == "c" else self

    conj = conjugate

    def __reduce__(self) -> Any:
        if self._held() or self._view.base.address() is None:
            whole = self.to_memory()
            return self._scipy_class, ((whole.data, whole.indices, whole.indptr), self._shape)
        return lazy_array, (self._view,)

    # -------------------------------------------------------------------------------- indexing

    def __getitem__(self, key: Any) -> Any:
        grid = grid_of(key, self._shape)
        if grid is None:
            return self._take(normalize(key, self._shape, self._axis))  # type: ignore[attr-defined]
        return lazy_array(self._shown().select(*self._axis.swap(grid)))

    @property
    def oindex(self) -> Any:
        """Outer indexing, lazily: ``L.oindex[rows, columns]`` is ``L[rows][:, columns]``."""
        return _LazyOuter(self)

    # ------------------------------------------------------------------------------ arithmetic

    def _then(self, step: Step) -> Any:
        return lazy_array(self._shown().then(step))

    def _applied(self, ufunc: np.ufunc, other: Any = None, first: bool = False) -> Any:
        """Apply a ufunc lazily; `NotImplemented` where the operand is none for lines."""
        if other is None:
            return self._then(ufunc_step(ufunc, self.dtype))
        found = self._operand(other)
        if found is None:
            return NotImplemented
        return self._then(ufunc_step(ufunc, self.dtype, *found, first))

    def _operand(self, other: Any) -> tuple[Any, Literal["major", "minor"] | None] | None:
        """Return an operand as a number, or as one a line along an axis; None for others."""
        if issparse(other) or isinstance(other, str | bytes):
            return None
        if np.ndim(other) == 0:
            return (other, None) if np.asarray(other).dtype.kind in "biufc" else None
        array = np.array(other)
        if array.dtype.kind not in "biufc" or array.ndim > 2:
            return None
        if array.size == 1:
            return array.reshape(())[()], None
        rows, columns = self.shape
        if array.shape in ((columns,), (1, columns)):
            axis = 1
        elif array.shape == (rows, 1):
            axis = 0
        else:
            return None
        return array.reshape(-1), "major" if axis == self._axis.major else "minor"

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if method != "__call__" or kwargs:
            return NotImplemented
        if ufunc.nin == 1 and ufunc.nout == 1:
            return self._applied(ufunc)
        if ufunc.nin != 2 or ufunc.nout != 1:
            return NotImplemented
        first = inputs[0] is not self
        other = inputs[0] if first else inputs[1]
        if ufunc in _REFLECTED:
            return getattr(self, _REFLECTED[ufunc][first])(other)
        result = self._applied(ufunc, other, first)
        if result is NotImplemented and ufunc is np.multiply:
            return self.multiply(other)
        return result

    def map(self, function: Callable[[np.ndarray], Any], dtype: Any = None) -> Any:
        """Apply a function to the stored values, lazily.

        Parameters
        ----------
        function : callable
            Of an array of values; returns one of the same shape. It must give 0 for 0, and is
            called in several threads.
        dtype : dtype, optional
            Of the result; default what it makes of zeros.

        Raises
        ------
        ValueError
            When it is not elementwise or does not give 0 for 0.

        Examples
        --------
        >>> L.map(lambda x: np.minimum(x, 10))  # doctest: +SKIP
        """
        return self._then(function_step(function, self.dtype, dtype))

    def astype(self, dtype: Any, casting: Any = "unsafe", copy: bool = True) -> Any:
        """Cast the values, lazily."""
        dtype = np.dtype(dtype)
        if not np.can_cast(self.dtype, dtype, casting):
            raise TypeError(f"cannot cast from {self.dtype} to {dtype} according to {casting!r}")
        return self if dtype == self.dtype else self._then(cast_step(self.dtype, dtype))

    def multiply(self, other: Any) -> Any:
        """Multiply elementwise: lazily by a number, a row or a column, else in memory."""
        result = self._applied(np.multiply, other)
        return super().multiply(other) if result is NotImplemented else result  # type: ignore[misc]

    def power(self, n: Any, dtype: Any = None) -> Any:
        """Raise the values to a power above 0, lazily."""
        result = self if dtype is None else self.astype(dtype)
        return result._applied(np.power, n)

    def __pow__(self, other: Any) -> Any:
        return self.power(other)

    def clip(self, min: Any = None, max: Any = None, out: None = None) -> Any:
        """Limit the values, lazily; zero must lie within the limits."""
        if out is not None:
            raise ValueError("a lazy result has no place that it could be written to: out=")
        result = self
        if min is not None:
            result = result._applied(np.maximum, min)
        return result if max is None else result._applied(np.minimum, max)

    def __mul__(self, other: Any) -> Any:
        return self.multiply(other)

    def __rmul__(self, other: Any) -> Any:
        return self.multiply(other)

    def __imul__(self, other: Any) -> Any:
        return self.multiply(other)

    def __truediv__(self, other: Any) -> Any:
        result = self._applied(np.true_divide, other)
        return super().__truediv__(other) if result is NotImplemented else result  # type: ignore[misc]

    __itruediv__ = __truediv__

    def __neg__(self) -> Any:
        return self._applied(np.negative)

    def __abs__(self) -> Any:
        return self._applied(np.absolute)


def _comparison(name: str) -> Any:
    ufunc = _COMPARISONS[name]

    def compare(self: Any, other: Any) -> Any:
        result = self._applied(ufunc, other)
        return getattr(super(Lazy, self), name)(other) if result is NotImplemented else result

    compare.__name__ = name
    compare.__doc__ = (
        f"Compare with a number, a row or a column, lazily; see `numpy.{ufunc.__name__}`."
    )
    return compare


def _method(name: str) -> Any:
    ufunc = getattr(np, name)

    def apply(self: Any) -> Any:
        return self._applied(ufunc)

    apply.__name__ = name
    apply.__doc__ = f"Apply `numpy.{name}`, lazily."
    return apply


for _name in _COMPARISONS:
    setattr(Lazy, _name, _comparison(_name))
for _name in _METHODS:
    setattr(Lazy, _name, _method(_name))
Lazy.__hash__ = object.__hash__  # type: ignore[method-assign]


class _LazyOuter:
    """``L.oindex``: each axis is selected on its own."""

    def __init__(self, array: Lazy) -> None:
        self._array = array

    def __getitem__(self, key: Any) -> Any:
        array = self._array
        outer(key, array.shape, array._axis)  # what is no such key, it refuses
        rows, columns = key if isinstance(key, tuple) and len(key) == 2 else (key, slice(None))
        return array[rows, :][:, columns]
