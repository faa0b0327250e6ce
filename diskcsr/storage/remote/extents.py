"""Which requests bring the wanted extents of a file: pure, without a server."""

from typing import NamedTuple

import numpy as np

__all__ = ["Requests", "plan_requests", "waves"]

#: Of what is wanted, what may be read beside it: one part in so many.
_SPARE = 10


class Requests(NamedTuple):
    """What to ask a server for.

    Attributes
    ----------
    lo, hi : (r,) int64 array
        First and one-past-last byte of each request, ascending.
    request : (e,) int64 array
        The request that brings each extent, whole.
    """

    lo: np.ndarray
    hi: np.ndarray
    request: np.ndarray


def plan_requests(
    offset: np.ndarray, nbytes: np.ndarray, *, max_gap: int, longest: int
) -> Requests:
    """Merge extents into few requests.

    Two extents are read by one request where the bytes between them take less time than a request
    costs, the smallest gaps first, as long as no more than a tenth of what is wanted is read
    beside it.

    Parameters
    ----------
    offset, nbytes : (e,) int64 array
        The extents, in any order, of at least a byte each.
    max_gap : int
        Bytes that come in the time that a request costs.
    longest : int
        Extents are merged into requests of at most so many bytes.

    Returns
    -------
    Requests

    Examples
    --------
    >>> at, size = np.array([0, 100, 1000]), np.array([90, 100, 100])
    >>> plan_requests(at, size, max_gap=50, longest=1 << 20)[:2]
    (array([   0, 1000]), array([ 200, 1100]))
    """
    order = np.argsort(offset, kind="stable")
    lo, hi = offset[order], np.maximum.accumulate(offset[order] + nbytes[order])
    gap = lo[1:] - hi[:-1]
    joined = gap <= 0
    close = np.flatnonzero(~joined & (gap <= max_gap))
    close = close[np.argsort(gap[close], kind="stable")]
    spare = int(nbytes.sum()) // _SPARE
    joined[close[np.cumsum(gap[close]) <= spare]] = True
    starts = _cut(lo, hi, joined, longest)
    request = np.empty(offset.size, np.int64)
    begins = np.zeros(offset.size, np.int64)
    begins[starts[1:]] = 1
    request[order] = np.cumsum(begins)
    return Requests(lo[starts], hi[np.append(starts[1:], lo.size) - 1], request)


def _cut(lo: np.ndarray, hi: np.ndarray, joined: np.ndarray, longest: int) -> np.ndarray:
    """Return which extents begin a request."""
    starts, first = [0], int(lo[0])
    ends = hi[1:].tolist()
    for at, (begin, end, join) in enumerate(
        zip(lo[1:].tolist(), ends, joined.tolist(), strict=True)
    ):
        # An overlap is never cut: an extent must come whole.
        if not join or (end - first > longest and begin >= int(hi[at])):
            starts.append(at + 1)
            first = begin
    return np.array(starts, np.int64)


def waves(nbytes: np.ndarray, most: int) -> np.ndarray:
    """Cut extents, in the order in which they are used, into runs of about `most` bytes.

    Returns
    -------
    (w + 1,) int64 array
        The first extent of each run, and their number at the end.

    Examples
    --------
    >>> waves(np.array([4, 4, 4, 20, 1]), 10)
    array([0, 2, 3, 4, 5])
    """
    edges, held = [0], 0
    for at, size in enumerate(nbytes.tolist()):
        if held and held + size > most:
            edges.append(at)
            held = 0
        held += size
    return np.array([*edges, nbytes.size] if nbytes.size else edges, np.int64)
