"""Latent semantic analysis of Python's standard library: tf-idf weights that are never stored.

The file holds how often each module uses each word. Weights are a recipe over these counts, and the
singular vectors of the weights come from a few passes of the file; see ``quickstart.py`` for the
modules and for a file of weights. Words that occur together lie along the same direction, so that
modules can be alike that share few words.

Each step prints its time and the most memory that the process has had so far, beyond that at its
start. ``--documents`` adds such as are made of three modules each, and then ``--memory-limit`` may
be a third of what the counts take.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from atlas import add_limit, set_limit, step
from quickstart import read_modules
from scipy.sparse import csr_array, vstack

import diskcsr


def counted(documents, vocabulary, block=200):
    """Yield the counts of some documents at a time as csr_array, a column for each word."""
    for first in range(0, len(documents), block):
        some = documents[first : first + block]
        indptr = np.cumsum([0, *map(len, some)])
        indices = [vocabulary[word] for words in some for word in words]
        data = np.array([count for words in some for count in words.values()], np.float32)
        yield csr_array((data, indices, indptr), shape=(len(some), len(vocabulary)))


def mixed(documents, vocabulary, count, rng, block=2000):
    """Yield the counts of the documents, and of so many more, each of three of them one by one."""
    counts = []
    for one in counted(documents, vocabulary):
        counts.append(one)
        yield one
    counts = vstack(counts, format="csr")
    for first in range(0, count, block):
        size = min(block, count - first)
        three = rng.integers(0, counts.shape[0], 3 * size)
        chosen = csr_array((np.ones(three.size, np.float32), three, 3 * np.arange(size + 1)))
        chosen.resize(size, counts.shape[0])
        yield chosen @ counts


def damped(count):
    """Return one and the logarithm of counts; of zero, which stays what it is, zero."""
    return np.where(count > 0, 1 + np.log(np.maximum(count, 1)), 0).astype(count.dtype)


def tf_idf(A):
    """Return the lazy array of tf-idf weights of counts, rows of length 1."""
    holds = diskcsr.describe(A, 0).nonzeros  # in how many documents each word is
    idf = np.log((1 + A.shape[0]) / (1 + holds)) + 1
    weights = A.lazy.map(damped) * idf.astype(A.dtype)[None, :]
    length = np.sqrt(weights.power(2).sum(axis=1))
    return weights / np.where(length > 0, length, 1)[:, None]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--module", default="json/decoder.py", help="default: %(default)s")
    parser.add_argument("--topics", type=int, default=30, help="default: %(default)s")
    parser.add_argument("--documents", type=int, default=0, help="to make besides (%(default)s)")
    add_limit(parser)
    args = parser.parse_args(argv)
    set_limit(args)

    modules = read_modules()
    names, documents = list(modules), list(modules.values())
    words = sorted(set().union(*documents))
    vocabulary = {word: column for column, word in enumerate(words)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "counts.h5")
        with step("counts written"):
            blocks = mixed(documents, vocabulary, args.documents, np.random.default_rng(0))
            A = diskcsr.write(path, blocks, compression="gzip")
        del modules, documents, blocks  # from now on memory is for computing
        with A:
            print(f"{A.shape[0]:,} documents, {A.shape[1]:,} words, {A.nnz:,} counts")
            with step("weights"):
                weights = tf_idf(A)
            print(weights.explain().partition(": ")[2])
            with step("singular vectors"):
                U, s, Vt = diskcsr.linalg.svds(weights, args.topics, rng=0, tol=1e-3)
            if args.documents:
                U = U[: len(names)]
    print(f"singular values from {s[0]:.2f} to {s[-1]:.2f}")
    for topic in range(1, 4):  # the first is what all have in common
        most = np.argsort(-np.abs(Vt[topic]), kind="stable")[:6]
        print(f"topic {topic}: {' '.join(words[column] for column in most)}")

    scores = U * s
    scores /= np.maximum(np.linalg.norm(scores, axis=1, keepdims=True), 1e-12)
    row = names.index(args.module)
    cosines = scores @ scores[row]
    print(f"nearest to {args.module}:")
    best = np.argsort(-cosines, kind="stable")
    for other in best[best != row][:5]:
        print(f"    {cosines[other]:.3f}  {names[other]}")


if __name__ == "__main__":
    main()
