"""What would they think of it? Ratings in any order, without the means, in a truncated SVD.

Ratings come as (user, item, stars), in no order: from a CSV file with a line of names above (which
takes pyarrow), or made here. They are sorted into a matrix within a given memory. What is known of
a user's and of an item's mean is taken off the ratings that there are, block by block, into a
second file; where there is no rating there is nothing to take off. Singular vectors of the rest
tell what else users have in common. A fiftieth of the ratings, or half a million, is kept apart, to
see what it is worth.

Each step prints its time and the most memory that the process has had so far, beyond that at its
start. With ``--memory-limit`` there may be three times as many ratings as fit its address space.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from atlas import add_limit, set_limit, step
from scipy.sparse import csr_array

import diskcsr

TASTES, BLOCK, APART = 6, 200_000, 500_000


def made(users, items, ratings, rng):
    """Yield (users, items, stars) of people whose tastes differ in a few ways."""
    of_user, of_item = rng.normal(size=(users, TASTES)), rng.normal(size=(items, TASTES))
    kindness, quality = rng.normal(0, 0.4, users), rng.normal(0, 0.5, items)
    fame = np.cumsum(rng.lognormal(0, 1, items))
    for first in range(0, ratings, BLOCK):
        size = min(BLOCK, ratings - first)
        user = rng.integers(0, users, size)
        item = np.searchsorted(fame, rng.random(size) * fame[-1])
        likes = (of_user[user] * of_item[item]).sum(axis=1) * 0.35
        stars = 3.2 + kindness[user] + quality[item] + likes + rng.normal(0, 0.4, size)
        yield user, item, np.clip(np.round(2 * stars) / 2, 0.5, 5).astype(np.float32)


def stored(args, path):
    """Write the ratings to a file; return the opened matrix of users by items."""
    if args.csv:
        how = {"labels": "sorted", "duplicates": "last", "dtype": "f4", "source_kind": "csv"}
        return diskcsr.convert(args.csv, path, fields=args.fields.split(","), **how)
    triplets = made(args.users, args.items, args.ratings, np.random.default_rng(0))
    shape = (args.users, args.items)
    return diskcsr.from_triplets(path, triplets, shape, duplicates="last", max_memory=200 << 20)


def keep_apart(A, path, apart, rng):
    """Write all ratings but some, which are put into `apart` as (users, items, stars)."""
    share = min(0.02, APART / A.nnz)

    def blocks():
        for first, block in A.iter_blocks(1 << 24):
            all_of_it = block.tocoo()
            held = rng.random(block.nnz) < share
            rows, columns, stars = all_of_it.row, all_of_it.col, all_of_it.data
            apart.append((first + rows[held], columns[held], stars[held]))
            yield csr_array((stars[~held], (rows[~held], columns[~held])), block.shape)

    return diskcsr.write(path, blocks())


def means(A, weight=5):
    """Return the mean of all ratings, and how far users and items lie from it.

    Who was rated little, or rated little, is taken to lie nearer to the mean of all, as if by
    `weight` more ratings.
    """
    users, items = diskcsr.describe(A, 1), diskcsr.describe(A, 0)
    mean = users.sum.sum(dtype=np.float64) / A.nnz
    of_item = (items.sum - mean * items.stored) / (items.stored + weight)
    expected = mean * users.stored + (A.lazy > 0).astype(np.float64) @ of_item
    return mean, (users.sum - expected) / (users.stored + weight), of_item


def without(A, mean, of_user, of_item):
    """Yield the blocks of ratings less what the means make one expect of those there are."""
    for first, block in A.iter_blocks(1 << 24):
        rows = first + np.repeat(np.arange(block.shape[0]), np.diff(block.indptr))
        values = block.data - (mean + of_user[rows] + of_item[block.indices])
        yield csr_array((values.astype(np.float32), block.indices, block.indptr), block.shape)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("csv", nargs="?", help="a CSV file of ratings (default: they are made)")
    parser.add_argument("--fields", default="user,item,stars", help="of it (%(default)s)")
    parser.add_argument("--users", type=int, default=20_000, help="to make (%(default)s)")
    parser.add_argument("--items", type=int, default=2000, help="to make (%(default)s)")
    parser.add_argument("--ratings", type=int, default=2_000_000, help="to make (%(default)s)")
    parser.add_argument("--rank", type=int, default=TASTES, help="of the SVD (%(default)s)")
    add_limit(parser)
    args = parser.parse_args(argv)
    set_limit(args)

    rng, apart = np.random.default_rng(1), []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        with step("ratings sorted into a matrix"):
            A = stored(args, folder / "all.h5")
        print(f"{A.shape[0]:,} users, {A.shape[1]:,} items, {A.nnz:,} ratings")
        with A, step("some kept apart"):
            known = keep_apart(A, folder / "known.h5", apart, rng)
        with step("means of users and items"):
            mean, of_user, of_item = means(known)
        print(f"the mean is {mean:.2f} stars; users' lie {of_user.std():.2f} around it, ", end="")
        print(f"items' {of_item.std():.2f}")
        with step("written without them"):
            R = diskcsr.write(folder / "rest.h5", without(known, mean, of_user, of_item))
        with step("singular vectors"):
            U, s, Vt = diskcsr.linalg.svds(R, args.rank, rng=0, tol=1e-3)
        print(f"singular values of the rest: {' '.join(f'{value:.0f}' for value in s)}")
        known.close()
        R.close()

    users, items, stars = (np.concatenate(parts) for parts in zip(*apart, strict=True))
    missed = stars - (mean + of_user[users] + of_item[items])
    found = np.einsum("rk,k,kr->r", U[users], s, Vt[:, items])
    # The SVD takes ratings that nobody gave for average ones, so that what it finds is too small.
    first, second = slice(None, None, 2), slice(1, None, 2)
    found *= (found[first] @ missed[first]) / (found[first] @ found[first])
    print(f"{stars[second].size:,} ratings that were kept apart, and the error of what is said:")
    for name, error in {
        "the mean": stars - mean,
        "means of users and items": missed,
        "means and SVD": missed - found,
    }.items():
        print(f"    {name:<26}{np.sqrt(np.mean(error[second] ** 2)):.3f} stars")


if __name__ == "__main__":
    main()
