"""Into memory: what a whole matrix becomes there, checked before any of it is read."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from ..axis import axis_of
from ..blocks.joined import names_of, places_of
from ..compute import conversions
from ..compute.answers import empty
from ..compute.elementwise import elementwise
from .display import to_text
from .handle import Handle

__all__ = ["Whole"]


class Whole(Handle):
    """The part of a disk array that comes into memory as a whole, or is shown in part."""

    @property
    def files(self) -> list[tuple[str, str]]:
        """The (path, group) of each stored matrix that this one consists of: as a rule, of one."""
        return places_of(self._source)

    @property
    def column_names(self) -> np.ndarray | None:
        """Names of the columns where they were brought together by them, else None.

        See ``columns=`` and ``join=`` of `diskcsr.open`.
        """
        return names_of(self._contents())

    def __repr__(self) -> str:
        """Return what scipy says of it, and of how many files it is."""
        text = super().__repr__()
        count = len(self.files)
        return text if count == 1 else f"{text.removesuffix('>')} in {count} files>"

    def __str__(self) -> str:
        """Return what scipy prints: the first and the last elements; no others are read."""
        return to_text(repr(self), self._contents(), self.maxprint)

    def copy(self) -> Any:
        """Load the matrix: a copy is in memory and detached from the file. See `to_memory`."""
        return self.to_memory()

    def __copy__(self) -> Any:
        return self.to_memory()

    def __deepcopy__(self, memo: dict) -> Any:
        return self.to_memory()

    def toarray(
        self, order: Literal["C", "F"] | None = None, out: np.ndarray | None = None
    ) -> np.ndarray:
        """Return a dense array, filled block by block.

        Parameters
        ----------
        order : {"C", "F"}, optional
        out : ndarray, optional
            Filled and returned; as in scipy.

        Raises
        ------
        MemoryBudgetError
            When the dense array does not fit the budget.
        """
        return conversions.to_dense(self._contents(), self._scipy_class, order, out)

    def tocsr(self, copy: bool = False) -> Any:
        """Return self when this is a CSR and `copy` is false, else an in-memory csr_array."""
        return self._compressed("csr", copy)

    def tocsc(self, copy: bool = False) -> Any:
        """Return self when this is a CSC and `copy` is false, else an in-memory csc_array."""
        return self._compressed("csc", copy)

    def _compressed(self, name: str, copy: bool) -> Any:
        if self._axis is axis_of(name):
            return self.to_memory() if copy else self
        return self._loaded("to" + name, lambda whole: getattr(whole, "to" + name)())

    def tocoo(self, copy: bool = True) -> Any:
        """Return a coo_array, made block by block."""

        def tocoo(block: Any) -> Any:
            return block.tocoo(copy=False)

        return elementwise(self._contents(), self._scipy_class, tocoo)

    def tolil(self, copy: bool = False) -> Any:
        """Return a lil_array: Python's lists, six times the size of this matrix or more."""
        return self._loaded("tolil", lambda whole: whole.tolil())

    def todok(self, copy: bool = False) -> Any:
        """Return a dok_array: Python's dict, sixteen times the size of this matrix or more."""
        return self._loaded("todok", lambda whole: whole.todok())

    def todia(self, copy: bool = False) -> Any:
        """Return a dia_array. A pass over the indices tells before how large it is."""
        return self._loaded("todia", lambda whole: whole.todia())

    def tobsr(self, blocksize: tuple[int, int] | None = None, copy: bool = True) -> Any:
        """Return a bsr_array of dense blocks of `blocksize`."""
        return self._loaded("tobsr", lambda whole: whole.tobsr(blocksize), blocksize)

    def reshape(self, *args: Any, **kwargs: Any) -> Any:
        """Return the elements in another shape, in memory; self where that is its own shape."""
        form = empty(self._scipy_class, self._shape, self.dtype).reshape(*args, **kwargs)
        if form.shape == self._shape and not kwargs.get("copy"):
            return self
        return self._loaded("reshape", lambda whole: whole.reshape(*args, **kwargs))

    def nonzero(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows and the columns of the elements that are not zero."""
        return self._loaded("nonzero", lambda whole: whole.nonzero())

    def _loaded(self, name: str, convert: Callable, *details: Any) -> Any:
        shown = self._contents()
        conversions.require(shown, name, *details)
        return convert(self.to_memory())
