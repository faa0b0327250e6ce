"""Which modules of Python's standard library use the same words?

Builds a tf-idf matrix (documents x words, float32) from the source of every module of the Python
that runs this, writes it to an HDF5 file, and from then on works with the file: it finds the
modules most similar to one of them and fetches random batches of rows. After each step it says how
many bytes were read, out of those the matrix takes in the file.
"""

import argparse
import difflib
import re
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

import diskcsr

WORD = re.compile(r"[A-Za-z_]\w+")
ENOUGH = 1000  # documents


def read_modules():
    """Return {module path: Counter of its words} for the standard library.

    Some systems ship it without its tests, or zipped: where it has fewer than `ENOUGH` modules,
    installed packages make up the number.
    """
    documents = {}
    for scheme in ("stdlib", "purelib"):
        root = Path(sysconfig.get_path(scheme))
        for file in sorted(root.rglob("*.py")):
            name = file.relative_to(root)
            if scheme == "purelib" and len(documents) > ENOUGH:
                return documents
            if {"site-packages", "dist-packages"} & set(name.parts):
                continue
            try:
                text = file.read_text("utf-8")
            except (OSError, UnicodeDecodeError):  # some of Python's own test modules are no text
                continue
            documents[name.as_posix()] = Counter(WORD.findall(text))
    return documents


def tf_idf(documents):
    """Return the (documents, words) float32 csr_array of weights, its rows of length 1 or 0."""
    vocabulary, weights, indices, indptr = {}, [], [], [0]
    for counts in documents:
        for word, count in counts.items():
            indices.append(vocabulary.setdefault(word, len(vocabulary)))
            weights.append(1 + np.log(count))
        indptr.append(len(indices))
    shape = len(documents), len(vocabulary)
    X = csr_array((np.array(weights, np.float32), indices, indptr), shape)
    X.data *= np.log((1 + X.shape[0]) / np.bincount(X.indices))[X.indices]
    X.data /= np.repeat(np.sqrt(X.multiply(X).sum(axis=1)), np.diff(X.indptr))
    X.sort_indices()
    return X


def similarities(A, row):
    """Return the cosine of each row of `A` with row `row`; the rows have length 1.

    The matrix is never in memory as a whole: this reads the one row, then makes one pass over the
    file, a block of rows at a time.
    """
    query = A[[row]].toarray()[0]
    cosines = np.empty(A.shape[0], A.dtype)
    for first, block in A.iter_blocks(max_bytes=2**20):
        cosines[first : first + block.shape[0]] = block @ query
    return cosines


class Meter:
    """Prints what was read from the file since it last printed."""

    def __init__(self, reader):
        self.reader, self.seen = reader, 0

    def show(self, step):
        read, held = self.reader.bytes_read - self.seen, self.reader.stored_bytes
        self.seen += read
        print(f"{step:<42}read {read:>10,} of {held:,} bytes ({read / held:.1%})")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--module", default="json/decoder.py", help="default: %(default)s")
    parser.add_argument("--batch", type=int, default=32, help="rows a batch, default: %(default)s")
    parser.add_argument("--file", help="keep the matrix in this file (default: a temporary one)")
    args = parser.parse_args(argv)

    start = time.perf_counter()
    documents = read_modules()
    names = list(documents)
    if args.module not in documents:
        near = difflib.get_close_matches(args.module, names) or names[:3]
        print(f"no module {args.module!r}; there is, e.g., {', '.join(near)}", file=sys.stderr)
        return 2
    X = tf_idf(documents.values())
    print(f"{X.shape[0]:,} documents, {X.shape[1]:,} words, {X.nnz:,} stored values")

    with tempfile.TemporaryDirectory() as folder:
        file = args.file or Path(folder, "modules.h5")
        diskcsr.write(file, X, overwrite=True).close()
        print(f"built and written to {file} in {time.perf_counter() - start:.1f} s")

        with diskcsr.open(file) as A:
            meter = Meter(A.reader)
            meter.show(f"opened as a {type(A).__name__}")

            row = names.index(args.module)
            cosines = similarities(A, row)
            meter.show(f"compared {args.module} with all")
            best = np.argsort(-cosines, kind="stable")
            for other in best[best != row][:5]:
                print(f"    {cosines[other]:.3f}  {names[other]}")

            rng = np.random.default_rng(0)
            for _ in range(3):
                rows = rng.choice(A.shape[0], min(args.batch, A.shape[0]), replace=False)
                batch = A[rows]  # an ordinary scipy.sparse.csr_array, in memory
                meter.show(f"{batch.shape[0]} random rows, {batch.nnz:,} values")
    return 0


if __name__ == "__main__":
    sys.exit(main())
