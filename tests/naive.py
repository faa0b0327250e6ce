"""Plain-Python twins of the kernels: the same answers, with nothing clever about how.

Each takes and returns what the kernel of its name takes and returns, so a test calls both with the
same arguments. They loop, keep lists, and read a file one element at a time.
"""

import os
from itertools import pairwise

import numpy as np

SHORT_FILE, OUT_OF_RANGE = 1, 2


# --------------------------------------------------------------------------- diskcsr.kernels.rows


def plan_ranges(lo, hi, dst, max_gap, max_range):
    """Twin of `rows.plan_ranges`, said backwards: which rows may be read at once, then the most.

    Row after row, a range is the longest run of them that `_may_be_one_range`; a row wanted
    several times is one row with several places. Nothing is carried from row to row.
    """
    places = {}
    for start, stop, to in zip(lo.tolist(), hi.tolist(), dst.tolist(), strict=True):
        if start < stop:
            places.setdefault((start, stop), []).append(to)
    rows = [[[start, stop, to] for to in found] for (start, stop), found in places.items()]
    ranges = []
    while rows:
        counts = range(1, len(rows) + 1)
        n = max(n for n in counts if _may_be_one_range(rows[:n], max_gap, max_range))
        pieces = _pieces(rows[:n])
        ranges.append([pieces[0][0], pieces[-1][1], pieces])
        rows = rows[n:]
    return _as_arrays(ranges)


def _may_be_one_range(rows, max_gap, max_range):
    """Whether rows are one row, or near enough and short, or one straight copy of any length."""
    ends = [(row[0][0], row[0][1]) for row in rows]
    near = all(b[0] - a[1] <= max_gap for a, b in pairwise(ends))
    short = ends[-1][1] - ends[0][0] <= max_range
    return len(rows) == 1 or (near and short) or len(_pieces(rows)) == 1


def _pieces(rows):
    """Return what is copied, with neighbours that stay neighbours as one piece."""
    pieces = [[0, 0, 0]]
    for start, stop, to in (copy for row in rows for copy in row):
        first, end, place = pieces[-1]
        if (start, to) == (end, place + end - first) and first < end:
            pieces[-1][1] = stop
        else:
            pieces.append([start, stop, to])
    return pieces[1:]


def split_ranges(range_lo, range_hi, range_ptr, piece_lo, piece_hi, piece_dst, longest):
    """Twin of `rows.split_ranges`."""
    ranges = []
    for r in range(len(range_lo)):
        pieces = [
            [int(piece_lo[p]), int(piece_hi[p]), int(piece_dst[p])]
            for p in range(range_ptr[r], range_ptr[r + 1])
        ]
        lo, hi = int(range_lo[r]), int(range_hi[r])
        if len(pieces) > 1:
            ranges.append([lo, hi, pieces])
            continue
        to = pieces[0][2]
        while lo < hi:
            end = min(lo + longest, hi)
            ranges.append([lo, end, [[lo, end, to]]])
            to += end - lo
            lo = end
    return _as_arrays(ranges)


def _as_arrays(ranges):
    pieces = [piece for _, _, own in ranges for piece in own]
    counts = [0, *(len(own) for _, _, own in ranges)]
    columns = (
        [lo for lo, _, _ in ranges],
        [hi for _, hi, _ in ranges],
        np.cumsum(counts),
        [lo for lo, _, _ in pieces],
        [hi for _, hi, _ in pieces],
        [dst for _, _, dst in pieces],
    )
    return tuple(np.array(column, dtype=np.int64) for column in columns)


def element_offset(extents, itemsize, i):
    """Return where in the file element `i` of a dataset begins."""
    start, offset = extents
    for e in range(len(offset)):
        if start[e] <= i < start[e + 1]:
            return int(offset[e]) + (i - int(start[e])) * itemsize
    raise IndexError(i)


def gather(file, extents, itemsize, plan, first, last, out):
    """Twin of `rows.gather`: one pread for each element; of `file` only the descriptor is used.

    A range that cannot be read leaves `out` alone; the kernel may have written a part of it.
    """
    range_lo, range_hi, range_ptr, piece_lo, piece_hi, piece_dst = plan
    for r in range(first, last):
        lo, hi = int(range_lo[r]), int(range_hi[r])
        elements = {
            i: os.pread(file[0], itemsize, element_offset(extents, itemsize, i))
            for i in range(lo, hi)
        }
        if any(len(element) < itemsize for element in elements.values()):
            return SHORT_FILE, lo
        for p in range(range_ptr[r], range_ptr[r + 1]):
            to = int(piece_dst[p]) * itemsize
            for i in range(int(piece_lo[p]), int(piece_hi[p])):
                out[to : to + itemsize] = np.frombuffer(elements[i], np.uint8)
                to += itemsize
    return 0, 0


def gather_indices(file, extents, plan, first, last, out, limit):
    """Twin of `rows.gather_indices`."""
    raw = out.view(np.uint8)
    for r in range(first, last):
        status, at = gather(file, extents, out.itemsize, plan, r, r + 1, raw)
        if status:
            return status, at
        for p in range(plan[2][r], plan[2][r + 1]):
            to = int(plan[5][p])
            for i in range(to, to + int(plan[4][p] - plan[3][p])):
                if not 0 <= out[i] < limit:
                    return OUT_OF_RANGE, int(plan[0][r])
    return 0, 0


def advise(extents, itemsize, range_lo, range_hi, warm, shift):
    """Twin of `rows.advise`: return what it announces, as (offset, size) in bytes.

    Of a range that lies in several extents only what is in the first is announced.
    """
    announced = []
    for lo, hi in zip(range_lo.tolist(), range_hi.tolist(), strict=True):
        begin = element_offset(extents, itemsize, lo)
        if (begin >> shift) < len(warm) and warm[begin >> shift]:
            continue
        end = next(stop for stop in extents[0].tolist() if stop > lo)
        announced.append((begin, (min(hi, end) - lo) * itemsize))
    return announced


def blocks_read(extents, itemsize, plan, first, last, shift):
    """Return which blocks of ``1 << shift`` bytes of the file `gather` has to touch."""
    blocks = set()
    for lo, hi in zip(plan[0][first:last].tolist(), plan[1][first:last].tolist(), strict=True):
        for i in range(lo, hi):
            offset = element_offset(extents, itemsize, i)
            blocks |= {offset >> shift, (offset + itemsize - 1) >> shift}
    return blocks


def first_bad_index(indices, limit):
    """Twin of `rows.first_bad_index`."""
    for i, index in enumerate(indices.tolist()):
        if index < 0 or index >= limit:
            return i
    return -1


def first_bad_piece(lo, hi, at, out, limit):
    """Twin of `rows.first_bad_piece`."""
    for p in range(len(lo)):
        if any(not 0 <= index < limit for index in out[at[p] : at[p] + hi[p] - lo[p]].tolist()):
            return p
    return -1


def scatter(block, block_lo, itemsize, piece_lo, piece_hi, piece_dst, out):
    """Twin of `rows.scatter`."""
    count = len(block) // itemsize
    for lo, hi, dst in zip(piece_lo.tolist(), piece_hi.tolist(), piece_dst.tolist(), strict=True):
        for i in range(lo, hi):
            if block_lo <= i < block_lo + count:
                source, target = (i - block_lo) * itemsize, (dst + i - lo) * itemsize
                out[target : target + itemsize] = block[source : source + itemsize]


def find_listed(indices, wanted):
    """Twin of `rows.find_listed`."""
    return np.array([i for i, index in enumerate(indices.tolist()) if wanted[index]], np.int64)


def find_points(indptr, indices, point_ptr, point_minor):
    """Twin of `rows.find_points`."""
    found = []
    for row in range(len(indptr) - 1):
        asked = set(point_minor[point_ptr[row] : point_ptr[row + 1]].tolist())
        found += [i for i in range(indptr[row], indptr[row + 1]) if indices[i] in asked]
    return np.array(found, np.int64)


# ---------------------------------------------------------------------- diskcsr.kernels.transpose


def count(indices, counts):
    """Twin of `transpose.count`."""
    for index in indices.tolist():
        counts[index] += 1


def partition(data, indices, indptr, first, bucket_of, bucket_lo, values, majors, minors):
    """Twin of `transpose.partition`."""
    entries = [
        (
            int(bucket_of[indices[i]]),
            data[i],
            first + row,
            indices[i] - bucket_lo[bucket_of[indices[i]]],
        )
        for row in range(len(indptr) - 1)
        for i in range(indptr[row], indptr[row + 1])
    ]
    entries.sort(key=lambda entry: entry[0])
    for p, (_, value, major, minor) in enumerate(entries):
        values[p], majors[p], minors[p] = value, major, minor
    buckets = [entry[0] for entry in entries]
    return np.array([sum(b < k for b in buckets) for k in range(len(bucket_lo) + 1)])


def place(values, majors, minors, at, data, indices):
    """Twin of `transpose.place`."""
    for value, major, minor in zip(values, majors, minors.tolist(), strict=True):
        data[at[minor]], indices[at[minor]] = value, major
        at[minor] += 1


# ------------------------------------------------------------------------- diskcsr.kernels.reduce


def is_canonical(indices, indptr):
    """Twin of `reduce.is_canonical`."""
    lines = [indices[a:b].tolist() for a, b in pairwise(indptr.tolist())]
    return all(line == sorted(set(line)) for line in lines)
