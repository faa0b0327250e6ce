"""Plain-Python twins of the kernels: the same answers, with nothing clever about how.

Each takes and returns what the kernel of its name takes and returns, so a test calls both with the
same arguments. They loop, keep lists, and read a file one element at a time.
"""

import os
from fractions import Fraction
from itertools import pairwise

import numpy as np

SHORT_FILE, OUT_OF_RANGE = 1, 2


# --------------------------------------------------------------------------- diskcsr.kernels.rows


def plan_ranges(lo, hi, dst, max_gap, max_range):
    """Twin of `ranges.plan_ranges`, said backwards: which rows may be read at once, then the most.

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


def plan_rows(lo, hi, dst, max_gap, max_range, longest):
    """Twin of `ranges.plan_rows`."""
    return split_ranges(*plan_ranges(lo, hi, dst, max_gap, max_range), longest)


def split_ranges(range_lo, range_hi, range_ptr, piece_lo, piece_hi, piece_dst, longest):
    """Twin of `ranges.split_ranges`."""
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


def first_above(ascending, value):
    """Twin of `rows.first_above`."""
    return sum(entry <= value for entry in ascending.tolist())


def find_listed(indices, indptr, places):
    """Twin of `rows.find_listed`."""
    found = [i for i, index in enumerate(indices.tolist()) if places[index]]
    kept = [places[indices[i]] - 1 for i in found]
    starts = [sum(i < start for i in found) for start in indptr.tolist()]
    return np.array(found, np.int64), np.array(kept, indices.dtype), np.array(starts, indptr.dtype)


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


def _lines(indptr):
    """The places of each line."""
    return [range(a, b) for a, b in pairwise(np.asarray(indptr).tolist())]


def add_lines(values, indptr, out):
    """Twin of `reduce.add_lines`."""
    for line, places in enumerate(_lines(indptr)):
        for i in places:
            out[line] += values[i]


def add_exactly(values, indptr, out, lost):
    """Twin of `reduce.add_exactly`: with fractions, of which nothing is lost at all."""
    for line, places in enumerate(_lines(indptr)):
        numbers = [out[line], lost[line], *(values[i] for i in places)]
        parts = [[number.real for number in numbers], [number.imag for number in numbers]]
        exact = [sum(map(Fraction, map(float, part))) for part in parts]
        rounded = [float(part) for part in exact]
        rest = [float(part - Fraction(number)) for part, number in zip(exact, rounded, strict=True)]
        complex_numbers = np.iscomplexobj(values)
        out[line] = complex(*rounded) if complex_numbers else rounded[0]
        lost[line] = complex(*rest) if complex_numbers else rest[0]


def add_all(values, out):
    """Twin of `reduce.add_all`."""
    for value in values:
        out[0] += value


def add_at(values, indices, out):
    """Twin of `reduce.add_at`."""
    for i, (value, index) in enumerate(zip(values, indices.tolist(), strict=True)):
        if index >= len(out):
            return i
        out[index] += value
    return -1


def spread_at(values, indices, spread):
    """Twin of `reduce.spread_at`."""
    for i, (x, at) in enumerate(zip(values, indices.tolist(), strict=True)):
        if at >= len(spread):
            return i
        if spread[at, 0] == 0:
            spread[at, 1] = x
        apart = float(x) - spread[at, 1]
        spread[at] += [1, 0, apart, apart**2]
    return -1


def summarize_at(values, indices, spread, counts, sums, extremes):
    """Twin of `reduce.summarize_at`."""
    for x, at in zip(values, indices.tolist(), strict=True):
        if at >= len(counts):
            break
        counts[at] += [x == 0, x != x]
        if x == x:
            extremes[at] = min(extremes[at, 0], x), max(extremes[at, 1], x)
        sums[at] += x
    return spread_at(values, indices, spread)


def spread_lines(values, indptr, spread):
    """Twin of `reduce.spread_lines`."""
    spread_at(values, _line_of_each(indptr), spread)


def summarize_lines(values, indptr, spread, counts, sums, extremes):
    """Twin of `reduce.summarize_lines`."""
    summarize_at(values, _line_of_each(indptr), spread, counts, sums, extremes)


def _line_of_each(indptr):
    lines = np.concatenate([np.full(len(places), k) for k, places in enumerate(_lines(indptr))])
    return lines.astype(np.int64)


def _best_of(numbers, largest):
    """Place of the first of the most extreme numbers, of which NaN is the first of all."""
    for i, number in enumerate(numbers):
        if number != number:
            return i
    return numbers.index(max(numbers) if largest else min(numbers))


def first_extremes_of_lines(values, indices, indptr, largest, best, where):
    """Twin of `reduce.first_extremes_of_lines`."""
    for line, places in enumerate(_lines(indptr)):
        there = [int(indices[i]) for i in places]
        where[line, 1:] = 0, min(set(range(len(there) + 1)) - set(there)), len(there)
        if there:
            found = _best_of([values[i] for i in places], largest)
            best[line], where[line, :2] = values[places[found]], (there[found], found)


def first_extremes_at(values, indices, indptr, first, largest, best, where):
    """Twin of `reduce.first_extremes_at`."""
    for line, places in enumerate(_lines(indptr), first):
        for i in places:
            at = indices[i]
            place, before, missing, count = where[at]
            if count == 0 or _best_of([best[at], values[i]], largest) == 1:
                best[at], place, before = values[i], line, count
            where[at] = place, before, missing + (missing == line), count + 1


# ----------------------------------------------------------------------- diskcsr.kernels.triplets


def pack(majors, minors, n_major, n_minor, bits, keys):
    """Twin of `triplets.pack`."""
    seen = [(-1, -1)]
    for i, (major, minor) in enumerate(zip(majors.tolist(), minors.tolist(), strict=True)):
        if not (0 <= major < n_major and 0 <= minor < n_minor):
            return i, *map(max, zip(*seen, strict=True))
        seen.append((major, minor))
        keys[i] = major * 2**bits + minor
    return -1, *map(max, zip(*seen, strict=True))


def survey(keys):
    """Twin of `triplets.survey`."""
    listed = keys.tolist()
    differ = [bit for bit in range(63) if len({key >> bit & 1 for key in listed}) > 1]
    return sum(1 << bit for bit in differ), sorted(listed) == listed


def sort_pass(keys, values, shift, width, to_keys, to_values):
    """Twin of `triplets.sort_pass`."""
    order = sorted(range(keys.size), key=lambda i: int(keys[i]) // 2**shift % 2**width)
    to_keys[:], to_values[:] = keys[order], values[order]


def unpack(keys, bits, first, minors, lengths):
    """Twin of `triplets.unpack`."""
    for i, key in enumerate(keys.tolist()):
        major, minors[i] = divmod(key, 2**bits)
        lengths[major - first] += 1
