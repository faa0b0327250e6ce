"""A user's program that is checked by mypy and not run: what an editor knows of each thing.

`assert_type` is an error of mypy where the type is another, and so is a ``type: ignore`` without an
error to ignore.
"""

from typing import Any, assert_type

import numpy as np
from scipy.sparse import coo_array, csc_array, csr_array

import diskcsr
from diskcsr import DiskCSC, DiskCSCMatrix, DiskCSR, DiskCSRMatrix


def opening(path: str) -> None:
    A = diskcsr.open(path, "X")
    assert_type(A, DiskCSR | DiskCSC)
    with diskcsr.open(path, mode="r+") as B:
        assert_type(B, DiskCSR | DiskCSC)
    assert_type(diskcsr.open(path, spmatrix=True), DiskCSRMatrix | DiskCSCMatrix)
    with DiskCSR(path, "X", mode="c") as C:
        assert_type(C, DiskCSR)


def writing(path: str, matrix: csr_array) -> None:
    A = diskcsr.write(path, matrix, "X", compression="gzip", chunks=1000, tags="anndata")
    assert_type(A, DiskCSR | DiskCSC)
    B = A.save("b.h5", format="csc", permute_rows=True, rng=0, max_memory=1 << 30)
    assert_type(B, DiskCSR | DiskCSC)
    assert_type(diskcsr.convert(B, "c.h5", progress=True), DiskCSR | DiskCSC)
    assert_type(diskcsr.concat([A, B], "d.h5", axis=1, overwrite=True), DiskCSR | DiskCSC)
    diskcsr.write(path, matrix, compresion="gzip")  # type: ignore[call-arg]
    A.save("e.h5", chunks="many")  # type: ignore[arg-type]
    diskcsr.convert(path, "f.h5", shuffle_rows=0)  # type: ignore[call-arg]


def reading(A: DiskCSR, B: DiskCSC, x: np.ndarray) -> None:
    assert_type(A.shape, tuple[int, int])
    assert_type(A.nnz, int)
    assert_type(A.filename, str)
    assert_type(A.closed, bool)
    assert_type(A[[2, 0]], csr_array)
    assert_type(B[:10], csc_array)
    assert_type(A[5], coo_array)
    assert_type(A[[2, 0], :], csr_array)
    assert_type(A[0, 1], Any)
    assert_type(A @ x, np.ndarray)
    assert_type(A.T.T, DiskCSR)
    assert_type(A.T, DiskCSC)
    assert_type(B.T, DiskCSR)
    assert_type(A.toarray(), np.ndarray)
    assert_type(A.fetch(x, out=diskcsr.Buffers()), csr_array)
    for first, block in A.iter_blocks(max_bytes=1 << 20):
        assert_type(first, int)
        assert_type(block, csr_array)
    batches = A.batches(256, shuffle=True, rng=np.random.default_rng(0))
    assert_type(batches, diskcsr.Batches)
    assert_type(len(batches), int)
    assert_type(batches.state(), dict[str, Any])
    A.batches(8, groups="obs/kind", rank=0, world_size=2, beside={"y": x}, state=batches.state())
    A.batches(256, seed=0)  # type: ignore[call-arg]


def changing(A: DiskCSR | DiskCSC) -> None:
    A.append([[1, 2]], grow=True)
    A[0] = 2
    A.append([[1, 2]], compression="gzip")  # type: ignore[call-arg]


def around(path: str) -> None:
    assert_type(diskcsr.info(path), dict[str, Any])
    assert_type(diskcsr.check(path), diskcsr.Report)
    assert_type(diskcsr.options.num_threads, int)
