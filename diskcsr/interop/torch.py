"""torch: datasets over a disk array that give batches as tensors, sparse or dense.

A batch is read as scipy's array and becomes a tensor over the same memory; nothing is copied in
between. On its way from a DataLoader's worker it is copied once, into shared memory, by torch.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from scipy.sparse import issparse

from ..machine.options import options

try:
    import torch
    from torch import distributed
    from torch.utils.data import Dataset, IterableDataset, default_collate, get_worker_info
except ImportError as problem:
    raise ImportError(
        "diskcsr.interop.torch takes torch, which is not installed: pip install 'diskcsr[torch]'"
    ) from problem

__all__ = ["BatchDataset", "RowDataset", "collate", "to_tensor"]

#: Iterations that a `_Clock` remembers the epochs of; only those that go on at one time matter.
_SLOTS = 1024


def to_tensor(batch: Any, *, pin_memory: bool = False) -> Any:
    """Return what batches consist of as tensors, over the same memory.

    Parameters
    ----------
    batch : sparse array, ndarray, tuple or mapping of them
        A compressed sparse array of scipy's becomes a sparse CSR (CSC) tensor, its index type kept.
        Text stays the array that it is.
    pin_memory : bool
        Copy into memory that is locked in place, so that copies of it to a GPU can go on meanwhile.

    Returns
    -------
    Tensor, tuple or dict

    Raises
    ------
    TypeError
        When torch has no such dtype.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> to_tensor(sp.csr_array([[0, 1.5], [2.5, 0]])).to_dense()
    tensor([[0.0000, 1.5000],
            [2.5000, 0.0000]], dtype=torch.float64)
    """
    if issparse(batch):
        arrays = (batch.indptr, batch.indices, batch.data)
        return torch.sparse_compressed_tensor(
            *(_dense(array, pin_memory) for array in arrays),
            size=batch.shape,
            layout=getattr(torch, f"sparse_{batch.format}"),
            check_invariants=False,  # they were checked when they were read
        )
    if isinstance(batch, tuple):
        return tuple(to_tensor(part, pin_memory=pin_memory) for part in batch)
    if isinstance(batch, Mapping):
        return {name: to_tensor(part, pin_memory=pin_memory) for name, part in batch.items()}
    return batch if batch.dtype.kind in "OUS" else _dense(batch, pin_memory)


def _dense(array: np.ndarray, pin_memory: bool) -> Any:
    tensor = torch.from_numpy(array)
    return tensor.pin_memory() if pin_memory else tensor


def _say_once() -> None:
    """Have torch say now, unheard, that its sparse CSR tensors are in beta: it does so once.

    It would be heard from each worker of each epoch.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        torch.sparse_compressed_tensor([0, 0], [], [], size=(1, 1), layout=torch.sparse_csr)


_say_once()


class _Clock:
    """Which epoch comes next, in memory that a dataset's copies in workers share.

    A DataLoader does not tell its dataset that it begins an epoch: each worker finds out for
    itself, and all workers of one epoch must find the same. What they have in common is the seed
    that the DataLoader drew for its workers; where workers persist, also how many epochs they have
    begun. The first worker that comes with these two takes the next epoch, and notes which.

    Two workers that come at the same time write the same numbers, so no lock is needed.
    """

    def __init__(self) -> None:
        self._shared = torch.zeros(1 + 3 * _SLOTS, dtype=torch.int64).share_memory_()
        self._begun = 0

    def __getstate__(self) -> dict[str, Any]:
        return {"_shared": self._shared}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # By pickle alone it is a copy, in memory of its own; sent to a process that torch starts,
        # the same.
        shared = state["_shared"]
        self._shared = shared if shared.is_shared() else shared.share_memory_()
        self._begun = 0

    @property
    def coming(self) -> int:
        """The epoch that begins next."""
        return int(self._shared[0])

    @coming.setter
    def coming(self, epoch: int) -> None:
        self._shared[0] = epoch

    def begin(self, worker: Any) -> int:
        """Return the epoch that begins now: in this process, or in a worker that torch describes.

        An epoch is settled before it is noted as gone, and looked for before it is taken.
        """
        coming, self._begun = self.coming, self._begun + 1
        if worker is None:
            self.coming = coming + 1
            return coming
        key = (worker.seed - worker.id, self._begun)
        slot = self._shared.numpy()[1 + 3 * (hash(key) % _SLOTS) :][:3]
        if (slot[2], slot[1]) != key:
            slot[0], slot[1], slot[2] = coming, key[1], key[0]
            self.coming = coming + 1
        return int(slot[0])


@cache
def _share_threads(workers: int) -> None:
    """Have the threads of all workers together be as many as one process has."""
    options.num_threads = max(1, options.num_threads // workers)


class BatchDataset(IterableDataset):
    """Minibatches of a disk array as an iterable dataset of tensors.

    Parameters
    ----------
    A : DiskCSR or DiskCSC
        Also a lazy one.
    batch_size : int
        Rows a batch, of a DiskCSC columns.
    pin_memory : bool
        Copy batches into memory that is locked in place; in this process alone. With workers, tell
        the DataLoader.
    rank, world_size : int, optional
        Which of how many processes this is for. Default: as `torch.distributed` has it where it is
        initialised when the dataset is made, else 0 of 1.
    **how
        All else that ``A.batches`` takes: `shuffle`, `rng`, `block_size`, `weights`, `groups`,
        `dense`, `dtype`, `beside`, `return_rows`, ... and `state`, as of `state_dict`. Of a
        generator as `rng` one number is taken.

    Attributes
    ----------
    epoch : int
        Which epoch begins next, in this process and in all workers.

    Raises
    ------
    RuntimeError
        When memory is to be pinned and there is no accelerator to pin it for.
    Exception
        As ``A.batches`` does.

    Notes
    -----
    Give it to a DataLoader with ``batch_size=None``: batches are made here. Each row comes once an
    epoch, whatever the number of workers, and each epoch has another order, which depends on `rng`
    and the number of the epoch alone. The batches are those of one process. They also come in the
    same order, unless they are shuffled by blocks of rows: workers then take whole buffers in
    turns, as each block is to be read once.

    Workers open the file themselves, after fork and after spawn, and share the threads that one
    process would have. Each takes the memory that ``A.batches`` says: up to three buffers.

    With ``torchdata``'s StatefulDataLoader an epoch goes on where it was, with workers, too.

    Examples
    --------
    >>> import diskcsr, numpy as np, os, scipy.sparse as sp, tempfile, torch
    >>> from diskcsr.interop.torch import BatchDataset
    >>> path = os.path.join(tempfile.mkdtemp(), "m.h5")
    >>> A = diskcsr.write(path, sp.csr_array(np.eye(4, dtype=np.float32)))
    >>> data = BatchDataset(A, 3, shuffle=True, rng=0, beside={"y": np.arange(4)})
    >>> loader = torch.utils.data.DataLoader(data, batch_size=None)
    >>> for X, more in loader:
    ...     print(X.layout, tuple(X.shape), bool((X.to_dense().argmax(1) == more["y"]).all()))
    torch.sparse_csr (3, 4) True
    torch.sparse_csr (1, 4) True
    """

    def __init__(
        self,
        A: Any,
        batch_size: int,
        *,
        pin_memory: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
        **how: Any,
    ) -> None:
        if pin_memory and not torch.accelerator.is_available():
            raise RuntimeError("pin_memory=True: there is no accelerator to pin memory for")
        if distributed.is_available() and distributed.is_initialized():
            rank = distributed.get_rank() if rank is None else rank
            world_size = distributed.get_world_size() if world_size is None else world_size
        if isinstance(how.get("rng"), np.random.Generator):
            how["rng"] = int(how["rng"].integers(1 << 63))
        state = how.pop("state", None)
        self._batches = A.batches(batch_size, rank=rank or 0, world_size=world_size or 1, **how)
        self._pin_memory = pin_memory
        self._clock = _Clock()
        if state is not None:
            self.load_state_dict(state)

    def __len__(self) -> int:
        return len(self._batches)

    def __repr__(self) -> str:
        return f"<BatchDataset over {self._batches!r}>"

    @property
    def epoch(self) -> int:
        return self._clock.coming

    def set_epoch(self, epoch: int) -> None:
        """Have `epoch` begin next, from its beginning, also in workers that are there already."""
        self._clock.coming = self._batches.epoch = int(epoch)

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        if worker is None:
            return self._run()
        if self._pin_memory:
            raise RuntimeError("pin_memory: workers cannot; use DataLoader(..., pin_memory=True)")
        _share_threads(worker.num_workers)
        # A worker begins at once, so that all find this epoch before any of them finds the next.
        return map(to_tensor, self._begin(worker))

    def _run(self) -> Iterator[Any]:
        """Begin when the first batch is asked for: an iterator that is made may never be used."""
        for batch in self._begin(None):
            yield to_tensor(batch, pin_memory=self._pin_memory)

    def _begin(self, worker: Any) -> Iterator[Any]:
        epoch = self._batches.goes_on_in
        if epoch is None:
            epoch = self._clock.begin(worker)
        else:
            self._clock.coming = epoch + 1
        number, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        return self._batches.share(epoch, number, workers)

    def state_dict(self) -> dict[str, Any]:
        """Return where the iteration in this process stands; see ``Batches.state``.

        Workers have states of their own, which a StatefulDataLoader collects.
        """
        return self._batches.state(at_end=get_worker_info() is not None)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Have the next iteration in this process go on from a state; see ``Batches.load_state``.

        Raises
        ------
        ValueError
            When the state is of other batches.
        """
        self._batches.load_state(state)
        self._clock.coming = epoch = self._batches.epoch
        if self._batches.state()["batch"] == 0 and get_worker_info() is None:
            # Workers, too, begin there. What else is loaded here is for this process.
            self._batches.epoch = epoch


class _Rows:
    """What `RowDataset` gives a DataLoader for a list of rows: a batch, and no list of samples."""

    def __init__(self, batch: Any) -> None:
        self.batch = batch

    def __getitem__(self, place: int) -> Any:
        raise TypeError(
            "rows of a RowDataset come together: DataLoader(..., collate_fn=collate), with collate "
            "of diskcsr.interop.torch"
        )


def collate(samples: Any) -> Any:
    """Return a batch of a `RowDataset` as tensors: the `collate_fn` of its DataLoader.

    Samples of other datasets are put together as torch does.
    """
    if isinstance(samples, _Rows):
        return to_tensor(samples.batch)
    return default_collate(samples)


class RowDataset(Dataset):
    """The rows of a disk array, of a DiskCSC the columns, as a map-style dataset.

    For samplers of torch's own, as DistributedSampler. `BatchDataset` reads ahead, and in blocks.

    Parameters
    ----------
    A : DiskCSR or DiskCSC
        Also a lazy one.
    labels : (n, ...) array or str, optional
        What comes with each row: an array, or the name of a column in the array's file.
    dtype : dtype, optional
        Of the values; default as in the array.
    dense : bool
        Give dense tensors.

    Raises
    ------
    ValueError
        When there are not as many labels as rows.

    Notes
    -----
    Rows that are asked for together are read together: tell the DataLoader
    ``collate_fn=diskcsr.interop.torch.collate``. ``data[i]`` of a number is a batch of one row,
    ``data[[3, 1]]`` one of two. A batch and its buffer is all the memory that is taken.

    Examples
    --------
    >>> import diskcsr, numpy as np, os, scipy.sparse as sp, tempfile, torch
    >>> from diskcsr.interop.torch import RowDataset, collate
    >>> path = os.path.join(tempfile.mkdtemp(), "m.h5")
    >>> A = diskcsr.write(path, sp.csr_array(np.eye(4, dtype=np.float32)))
    >>> data = RowDataset(A, np.arange(4) % 2, dense=True)
    >>> len(data), data[[3, 0]]
    (4, (tensor([[0., 0., 0., 1.],
            [1., 0., 0., 0.]]), tensor([1, 0])))
    >>> for X, y in torch.utils.data.DataLoader(data, batch_size=3, collate_fn=collate):
    ...     print(tuple(X.shape), y)
    (3, 4) tensor([0, 1, 0])
    (1, 4) tensor([1])
    """

    def __init__(
        self, A: Any, labels: Any = None, *, dtype: Any = None, dense: bool = False
    ) -> None:
        beside = None if labels is None else {"labels": labels}
        self._batches = A.batches(1, dtype=dtype, dense=dense, beside=beside)

    def __len__(self) -> int:
        return len(self._batches)

    def __repr__(self) -> str:
        return f"<RowDataset of {len(self)} over {self._batches!r}>"

    def __getitem__(self, rows: Any) -> Any:
        return to_tensor(self._taken(rows if isinstance(rows, Sequence) else np.atleast_1d(rows)))

    def __getitems__(self, rows: Sequence[int]) -> _Rows:
        return _Rows(self._taken(rows))

    def _taken(self, rows: Any) -> Any:
        worker = get_worker_info()
        if worker is not None:
            _share_threads(worker.num_workers)
        batch = self._batches.take(rows)
        return (batch[0], batch[1]["labels"]) if isinstance(batch, tuple) else batch
