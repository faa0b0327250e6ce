"""A Gram product of singles by the vectors of the processor, a panel of columns at a time.

A panel is some columns of a dense matrix, so many that a row of it fills whole vectors, as a
C-contiguous array of its own. Of a line the sums of all columns stay in registers while its
elements go by; LLVM, left to itself, puts them back into memory with each. For 64 columns it
takes half of the time that `products.gram_product` takes with doubles (bench/products.py).

A product and a sum may be one instruction where the processor has it, which rounds once instead of
twice. With ``NUMBA_DISABLE_JIT=1`` all runs as plain Python.
"""

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.extending import intrinsic

from .caching import njit
from .products import first_bad, first_from, rows_together

__all__ = ["VECTOR", "add_part", "gram_panel"]

#: Singles that are dealt with as one: of the columns of a panel there are `lanes` times as many.
VECTOR = 16
#: Their bytes, and those of one of them.
_BYTES, _SIZE = 64, 4
_WORD, _SINGLE = ir.IntType(64), ir.FloatType()


def _element(builder, kind, base, at):
    """Return the number at a place of an array, given by its address, and of what type it is."""
    return builder.load(builder.gep(builder.inttoptr(base, kind.as_pointer()), [at]))


def _loop(builder, first, last, begin, step):
    """Go from `first` to `last` with some values, which `step(i, values)` returns anew."""
    before = builder.block
    test, body, after = map(builder.append_basic_block, ("test", "body", "after"))
    builder.branch(test)
    builder.position_at_end(test)
    i = builder.phi(_WORD)
    values = [builder.phi(value.type) for value in begin]
    builder.cbranch(builder.icmp_signed("<", i, last), body, after)
    builder.position_at_end(body)
    stepped = step(i, values)
    for phi, start, then in zip([i, *values], [first, *begin], [None, *stepped], strict=True):
        phi.add_incoming(start, before)
        phi.add_incoming(builder.add(i, _WORD(1)) if then is None else then, builder.block)
    builder.branch(test)
    builder.position_at_end(after)
    return values


def _intrinsic(along):
    """Return what multiplies the elements of a line by rows of a matrix, or adds them to these.

    It gets addresses: of values and minor indices, the places of the line's elements in them, of a
    matrix and how many rows it has, of the line's sums or factors; and a number of the type of the
    indices. It says whether all indices were in range.
    """

    def typed(context, values, minors, first, last, matrix, end, line, minor, lanes):
        count, nbytes = lanes.count * VECTOR, _WORD(lanes.count * _BYTES)
        vector, index = ir.VectorType(_SINGLE, count), ir.IntType(minor.bitwidth)
        undefined = ir.Constant(vector, ir.Undefined)
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), count), None)

        def generate(context, builder, signature, arguments):
            values, minors, first, last, matrix, end, line = arguments[:7]

            def row_at(address):
                place = builder.inttoptr(address, vector.as_pointer())
                row = builder.load(place)
                row.align = _SIZE
                return place, row

            def step(i, state):
                good, total = state
                at = _element(builder, index, minors, i)
                if minor.bitwidth < 64:
                    at = (builder.sext if minor.signed else builder.zext)(at, _WORD)
                inside = builder.icmp_unsigned("<", at, end)
                at = builder.mul(builder.select(inside, at, _WORD(0)), nbytes)
                place, row = row_at(builder.add(matrix, at))
                factor = _element(builder, _SINGLE, values, i)
                factor = builder.insert_element(undefined, factor, ir.IntType(32)(0))
                factor = builder.shuffle_vector(factor, undefined, zeros)
                product = builder.fmul(factor, row if along else total, flags=("contract",))
                added = builder.fadd(total if along else row, product, flags=("contract",))
                if not along:
                    builder.store(added, place).align = _SIZE
                return builder.and_(good, inside), added if along else total

            place, own = row_at(line)
            good, total = _loop(builder, first, last, [ir.IntType(1)(1), own], step)
            if along:
                builder.store(total, place).align = _SIZE
            return good

        return types.boolean(*[types.intp] * 7, minor, lanes), generate

    return typed


if config.DISABLE_JIT:

    def _use(data, indices, first, last, matrix, lines, r, back, lanes):
        for value, minor in zip(data[first:last], indices[first:last].tolist(), strict=True):
            if not 0 <= minor < len(matrix):
                return False
            if back:
                matrix[minor] += value * lines[r]
            else:
                lines[r] += value * matrix[minor]
        return True

else:
    _add_rows, _add_to_rows = intrinsic(_intrinsic(True)), intrinsic(_intrinsic(False))

    @njit(cache=True, nogil=True)
    def _use(data, indices, first, last, matrix, lines, r, back, lanes):
        """Add elements of a block, each times its row of a matrix, to line r, or the other way."""
        minor = indices.dtype.type(0)
        line = lines.ctypes.data + r * lines.shape[1] * _SIZE
        places = data.ctypes.data, indices.ctypes.data, first, last, matrix.ctypes.data
        if back:
            return _add_to_rows(*places, matrix.shape[0], line, minor, lanes)
        return _add_rows(*places, matrix.shape[0], line, minor, lanes)


@njit(cache=True, nogil=True)
def gram_panel(data, indices, indptr, panel, part, lanes):
    """Add to `part` the product of the block's transpose, the block, and a panel.

    Parameters
    ----------
    data, indices, indptr : arrays
        The block, of singles, each C-contiguous; so few lines that sums of so many singles will do.
    panel, part : (n_minor, b) float32 array
        C-contiguous; b is `lanes` times `VECTOR`.
    lanes : tuple
        Its length counts.

    Returns
    -------
    int
        -1, or the first line that has an index out of range.
    """
    n, (rows, width) = indptr.size - 1, panel.shape
    if not rows:
        return first_bad(indices, indptr, np.uint64(0), -1)
    tile = rows_together(rows, width, _SIZE, n, indptr[n] - indptr[0])
    lines = np.zeros((n, width), panel.dtype)
    for back in (False, True):
        matrix = part if back else panel
        at = indptr[:n].copy()
        for first in range(0, rows, tile):
            for r in range(n):
                a, b = at[r], indptr[r + 1]
                if first + tile < rows:
                    b = first_from(indices, a, b, first + tile)
                if not _use(data, indices, a, b, matrix, lines, r, back, lanes):
                    return first_bad(indices, indptr, np.uint64(rows), r)
                at[r] = b
    return -1


@njit(cache=True, nogil=True)
def add_part(part, out):
    """Add a part to `out`, and make it zeros."""
    for j in range(part.shape[0]):
        for k in range(part.shape[1]):
            out[j, k] += part[j, k]
            part[j, k] = 0
