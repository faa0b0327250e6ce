"""What a codec's row says: everything that is known of one of HDF5's filters."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Bytes", "Cd", "Codec", "Filter", "Pipeline", "Preset"]

Bytes: TypeAlias = NDArray[np.uint8]
#: The client data of a filter: the numbers that HDF5 keeps with a dataset for it.
Cd: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class Filter:
    """One filter of a dataset: HDF5's id, a name, and the client data."""

    id: int
    name: str
    cd: Cd


@dataclass(frozen=True)
class Pipeline:
    """How the chunks of one dataset are encoded.

    Attributes
    ----------
    filters : tuple of Filter
        In the order they were applied.
    dtype : numpy.dtype
        Of an element in the file, byte order included; a void where the stored type is not one that
        numpy has bit for bit (`unsupported` then says so).
    chunk : int
        Elements per chunk.
    """

    filters: tuple[Filter, ...]
    dtype: np.dtype
    chunk: int

    @property
    def nbytes(self) -> int:
        """Bytes of a decoded chunk."""
        return self.chunk * self.dtype.itemsize

    @property
    def native(self) -> np.dtype:
        """The dtype of a decoded chunk."""
        return self.dtype.newbyteorder("=")


@dataclass(frozen=True, kw_only=True, eq=False)
class Preset:
    """A way to write with a codec, by the name it has as ``compression=``.

    Attributes
    ----------
    name : str
    client_data : callable
        ``client_data(dtype, chunk, level)`` is what HDF5 is given with the filter for a dataset
        with elements of `dtype`, `chunk` of them in a chunk.
    level : int
        The default level.
    levels : range
        The levels there are; empty where there is nothing to choose.
    shuffle : bool
        Whether HDF5's byte shuffle is applied, too, unless the caller decides.
    before_shuffle : bool
        Whether the filter comes before the shuffle, because it works on elements.
    stores : callable
        ``stores(dtype)`` says whether values of that type can be written.
    """

    name: str
    client_data: Callable[[np.dtype, int, int], Cd]
    level: int = 0
    levels: range = range(0)
    shuffle: bool = False
    before_shuffle: bool = False
    stores: Callable[[np.dtype], bool] = lambda dtype: True


@dataclass(frozen=True, kw_only=True, eq=False)
class Codec:
    """One filter. All but the id and the name may be left out.

    Attributes
    ----------
    id, name : int, str
        HDF5's number of the filter, and what messages call it.
    decode : callable, optional
        ``decode(data, cd, dest)`` takes the stored bytes (uint8, read-only), the client data and a
        uint8 array of the most bytes there may be. It returns what it decoded: a part of `dest`, or
        an array of its own where a library insists on that. Bytes that cannot be decoded into
        `dest` are `CorruptFileError`; no claim found in them is believed before it is compared with
        the lengths at hand. Without it only HDF5 reads such data.
    encode : callable, optional
        ``encode(data, cd)`` returns the bytes to store. Without it only HDF5 writes such data.
    gather : callable, optional
        ``gather(data, cd, count, lo, hi, at, out)`` takes what `decode` takes, the number of
        elements in a chunk, and writes the elements ``lo[k]:hi[k]``, and no others, to
        ``out[at[k]:]``, in native byte order.
    gathers : callable
        ``gathers(cd, dtype)`` says whether `gather` can do so with elements of `dtype`.
    length_after : callable
        ``length_after(cd, length)`` is how many bytes the filter makes of `length` bytes, None
        where that varies.
    parameters : int
        How many numbers the client data have at least.
    refuse : callable
        ``refuse(cd, pipeline, length)`` says why the client data of a filter which gets `length`
        bytes (None: varies) are not what HDF5 or the filter itself would have written, or why they
        cannot be dealt with here; None when there is nothing against them.
    renew : callable
        ``renew(cd, dtype, chunk)`` is the client data for another dataset with this filter, with
        elements of `dtype`, `chunk` of them in a chunk. Numbers that HDF5 itself sets are left out.
    rounds : callable, optional
        ``rounds(values)`` says why the filter would not keep these values as they are, in words
        that follow its name; None when it keeps them. Only of filters that may round.
    preset : Preset, optional
        How to write with it.
    libraries : tuple of str
        Modules that decode it, in order of preference; empty for kernels of this package.
    extra : str
        The extra of this package that brings a library.
    slow : str
        What is said to users where not the first of the libraries is installed.
    plugin : str
        The class of hdf5plugin that brings the filter to HDF5; empty where HDF5 or h5py has it.
    """

    id: int
    name: str
    decode: Callable[[Bytes, Cd, Bytes], Bytes] | None = None
    encode: Callable[[Bytes, Cd], Bytes] | None = None
    gather: Callable[[Bytes, Cd, int, NDArray, NDArray, NDArray, NDArray], None] | None = None
    gathers: Callable[[Cd, np.dtype], bool] = lambda cd, dtype: True
    length_after: Callable[[Cd, int], int | None] = lambda cd, length: None
    parameters: int = 0
    refuse: Callable[[Cd, Pipeline, int | None], str | None] = lambda cd, pipeline, length: None
    renew: Callable[[Cd, np.dtype, int], Cd] = lambda cd, dtype, chunk: cd
    rounds: Callable[[NDArray], str | None] | None = None
    preset: Preset | None = None
    libraries: tuple[str, ...] = ()
    extra: str = ""
    slow: str = ""
    plugin: str = ""
