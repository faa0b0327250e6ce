"""Batches: epochs of minibatches over a matrix, and over what stands beside its rows."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.sparse import issparse

from ..blocks.address import open_source
from ..blocks.batches import Batches
from ..blocks.beside import Lines, Part, Stored, Values
from ..blocks.contents import Contents
from ..blocks.orders import balanced
from ..blocks.view import view_of
from ..storage.formats.columns import find_member
from ..storage.formats.conventions import ARRAYS
from ..storage.formats.detect import is_sparse
from .handle import contents_of
from .reading import Reading

__all__ = ["Batching"]


class Batching(Reading):
    """The part of a disk array that gives batches."""

    def batches(
        self,
        batch_size: int,
        *,
        shuffle: bool = False,
        rng: np.random.Generator | int | None = None,
        block_size: int = 1,
        buffer_size: int | None = None,
        drop_last: bool = False,
        rows: Any = None,
        weights: Any = None,
        groups: Any = None,
        rank: int = 0,
        world_size: int = 1,
        return_rows: bool = False,
        dtype: Any = None,
        dense: bool = False,
        beside: Mapping[str, Any] | None = None,
        state: Mapping[str, Any] | None = None,
    ) -> Batches:
        """Go through the rows in minibatches, each once an epoch; of a DiskCSC, the columns.

        Where "row" stands below it is "column" for a DiskCSC.

        Parameters
        ----------
        batch_size : int
            Rows a batch.
        shuffle : bool
            Random order, another each epoch; else storage order.
        rng : numpy.random.Generator, int or None
            Where the order comes from. Of an integer it depends on that and on the epoch alone, not
            on the number of threads; of a generator each epoch takes a number, when it begins; None
            gives another each time.
        block_size : int
            Rows that lie together in the file and stay together when buffers are filled: 1 is
            fully random; more reads faster. Within a buffer rows are shuffled singly.
        buffer_size : int, optional
            Rows fetched at a time, rounded down to whole batches; default about 64 MB. The next
            buffer is fetched while the batches of the last are used.
        drop_last : bool
            Leave out a last batch that is not full.
        rows : (k,) integers, mask or slice, optional
            Go through these only.
        weights : (n,) array or str, optional
            One for each row of the array, at least 0. An epoch then is as many rows as it has
            otherwise, each drawn with a probability proportional to its weight, whether it was
            drawn before or not. `block_size` must be 1; `shuffle` has no meaning.
        groups : (n,) array or str, optional
            The group of each row of the array, as numbers or text. Each row of an epoch is drawn by
            drawing a group, all with the same probability, and a row of it, all with the same
            probability or, with `weights`, one proportional to its weight: each group comes equally
            often on the average. Rows whose group is None or NaN are never drawn.
        rank, world_size : int
            Which of how many processes this is for. Each goes through ``k // world_size`` of the k
            rows, so all have the same number of batches, and no row is in two. They must have
            the same arguments otherwise. The rest, fewer than `world_size` rows, is left out, of a
            shuffled order other rows each epoch. Where no row may be missing, give each process
            ``rows=range(rank, n, world_size)`` instead. Of `weights`, each draws for itself.
        return_rows : bool
            Yield ``(row numbers, batch)``: the position first, as `iter_blocks` does.
        dtype : dtype, optional
            Of the values in batches; default as in the array.
        dense : bool
            Give matrices as dense arrays.
        beside : mapping, optional
            Of names to what has an entry for each row of the array and comes in step with it: an
            array (n, ...), a disk array or sparse matrix of as many rows, or the name of something
            in the array's own file: a matrix, as "layers/counts", or a column, as "obs/cell_type".
            A column of categories comes decoded; "obs/cell_type/codes" are its numbers. Of a lazy
            array that has some of the rows, arrays have entries for these. Batches are
            ``(batch, {name: part})`` then, with `return_rows` ``(row numbers, batch, {...})``.
        state : mapping, optional
            What ``state()`` of such batches returned: go on where they were.

        Returns
        -------
        Batches
            An iterable of csr_array (of a DiskCSC: of csc_array, with all rows of some columns), as
            often as wanted; ``len`` is the number of batches. Batches may be kept: memory is used
            again only once none of the batches in it is referred to any more. They can be pickled.
            What was handed out of this array (`data`, `indices`, `indptr`) when they are made is
            the truth for them; what is handed out later is not looked at.

        Raises
        ------
        ValueError
            When an argument is out of range, lengths differ, or a state is of other batches.
        IndexError
            When there is no such row.
        KeyError, FormatError
            When there is nothing of a name in the file, or it is neither a matrix nor a column.
        MemoryBudgetError
            When the order, or a dense batch, does not fit.

        Notes
        -----
        It takes up to three buffers of rows at a time (one that is used, one that is fetched, and
        one that batches lie in which the caller still has), up to three dense batches if they are
        asked for, the columns beside, and 20 bytes for each row to be shuffled or drawn, 8 more for
        weights. Columns are read by HDF5, once, when batches are made.

        Examples
        --------
        >>> for rows, X in A.batches(1024, shuffle=True, rng=0, return_rows=True):
        ...     model.partial_fit(X, y[rows], classes=classes)  # doctest: +SKIP

        With labels of its own, and two of the three rows drawn, each as often as the other:

        >>> import diskcsr, numpy as np, os, scipy.sparse as sp, tempfile
        >>> folder, dense = tempfile.mkdtemp(), np.arange(6).reshape(3, 2)
        >>> A = diskcsr.write(os.path.join(folder, "rows.h5"), sp.csr_array(dense))
        >>> labels = np.array(["a", "b", "c"])
        >>> for X, more in A.batches(2, weights=[1, 0, 1], rng=0, beside={"label": labels}):
        ...     print(X.toarray()[:, 0], more["label"])
        [0 0] ['a' 'a']
        [4] ['c']

        Of a DiskCSC the numbers are those of columns:

        >>> B = diskcsr.write(os.path.join(folder, "columns.h5"), sp.csc_array(dense.T))
        >>> [(columns.tolist(), X.shape) for columns, X in B.batches(2, return_rows=True)]
        [([0, 1], (2, 2)), ([2], (2, 1))]
        """
        contents = self._contents()
        lines = Lines(contents, self._scipy_class, dtype, dense)
        if weights is not None:
            weights = np.asarray(_in_memory(weights, contents, "weights"), np.float64)
        if groups is not None:
            weights = balanced(_in_memory(groups, contents, "groups"), weights)
        parts = None
        if beside is not None:
            parts = {name: _part(name, value, contents, dense) for name, value in beside.items()}
        return Batches(
            lines,
            None if rows is None else self._major_rows(rows),
            batch_size,
            shuffle=shuffle,
            rng=rng,
            block_size=block_size,
            buffer_size=buffer_size,
            drop_last=drop_last,
            return_rows=return_rows,
            weights=weights,
            rank=rank,
            world_size=world_size,
            beside=parts,
            state=state,
        )


def _in_memory(value: Any, contents: Contents, name: str) -> np.ndarray:
    """Return one number or text for each row; of a column of categories, their numbers."""
    if isinstance(value, str):
        column = Stored(contents, value).column
        if column.categories is None:
            value = column.values
        else:
            value = np.where(column.values < 0, np.nan, column.values)
    array = np.asarray(value)
    if array.ndim != 1:
        raise ValueError(f"{name}: one number a row expected, not an array of shape {array.shape}")
    _check_length(name, array.shape[0], contents)
    return array


def _part(name: str, value: Any, contents: Contents, dense: bool) -> Part:
    """Return what is taken for the rows of a batch."""
    source = contents.source
    if isinstance(value, str):
        group = getattr(source, "group", None)
        if group is None or not is_sparse(find_member(group.file, value)):
            return Stored(contents, value)
        found = open_source(group.file, value, {"format": None, "shape": None})
        whole = Contents(found, {}, found.axis, found.shape)
        return _lines(name, _as_selected(whole, contents), found.axis.array, contents, dense)
    own = contents_of(value)
    if own is not None:
        return _lines(name, own, value._scipy_class, contents, dense)
    if issparse(value):
        matrix = contents.axis.array(value)
        arrays = {part: getattr(matrix, part) for part in ARRAYS}
        shown = Contents.in_memory(arrays, contents.axis, matrix.shape)
        return _lines(name, shown, contents.axis.array, contents, dense)
    array = np.asarray(value)
    if array.ndim == 0:
        raise ValueError(f"beside {name!r}: an entry a row expected, not {value!r}")
    _check_length(f"beside {name!r}", array.shape[0], contents)
    return Values(array)


def _as_selected(whole: Contents, contents: Any) -> Any:
    """Return the lines of a matrix in the file that a lazy array has of the one beside it."""
    majors = getattr(contents, "majors", None)
    if majors is None or whole.axis is not contents.axis or whole.n_major != contents.base.n_major:
        return whole
    return view_of(whole).select(majors, range(whole.n_minor))


def _lines(name: str, shown: Any, container: Any, contents: Contents, dense: bool) -> Lines:
    axis = contents.axis
    if shown.axis is not axis:
        raise ValueError(
            f"beside {name!r}: a {shown.axis.format} matrix, whose {axis.majors} do not lie "
            f"together: save it with format={axis.format!r}"
        )
    _check_length(f"beside {name!r}", shown.n_major, contents)
    return Lines(shown, container, None, dense)


def _check_length(name: str, length: int, contents: Contents) -> None:
    if length != contents.n_major:
        raise ValueError(
            f"{name} has {length} entries, and the array {contents.n_major} "
            f"{contents.axis.majors}: there is one for each of them, whichever are gone through"
        )
