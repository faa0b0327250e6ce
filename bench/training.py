"""Epochs for training: scipy and torch batches, workers, beside a loop over scipy and others.

    python bench/training.py [--rows N] [--blocks 1 32 64 512] [--files raw gzip] [--json OUT]

The default is small enough for a minute or two; ``--rows 200000 --repeats 5 --dense-rows 16384
--peer-rows 32768`` is the size that numbers are for.

The matrix is that of bench/loader.py, which resembles a plate of Tahoe-100M: 62,710 columns, about
1,440 stored values a row, 25,000 distinct rows at the most; its batches, too: 4,096 rows, from
buffers of 16,384. Dense batches have 256 rows, as 4,096 would be a gigabyte, and of them some rows
of an epoch are timed, as of the peers. The file is in the page cache.

Every system goes through an epoch before it is timed, which is checked for holding every row once
where it is a whole one; workers persist, and their start is not timed. Systems take turns.
"first" is the first epoch of a fresh process, beside the next two, and what the process then holds
in anonymous memory. Where there is a GPU, batches also go there, and become dense there.
"""

import importlib.util
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np

import diskcsr

sys.path.insert(0, str(Path(__file__).resolve().parent))
from common import (
    OWN,
    REFERENCE,
    SEED,
    THREADS,
    Others,
    count,
    machine,
    make_matrix,
    print_busy,
    read_through,
    script,
    some_of,
    turn,
    versions,
)
from loader import (
    BATCH,
    BUFFER,
    COLUMNS,
    DISTINCT,
    FILES,
    SCDATASET,
    STORED_PER_ROW,
    own_batches,
    rows_a_second,
    scdataset_batches,
    scipy_batches,
)

DENSE_BATCH = 256
SPARSE, DENSE, ANNBATCH = "torch sparse", "torch dense", "annbatch"

# What the issue of speed is: file, block, system, over what, at least.
EXPECTED = [
    ("raw", 1, OWN, REFERENCE, 1.0),
    ("raw", 64, OWN, REFERENCE, 1.2),
    ("raw", 1, SPARSE, OWN, 0.9),
    ("raw", 64, SPARSE, OWN, 0.9),
    ("gzip", 64, SPARSE, OWN, 0.9),
]


def installed(name):
    return importlib.util.find_spec(name) is not None


def torch_loader(A, block, seed, workers, **how):
    """A DataLoader whose workers persist."""
    from torch.utils.data import DataLoader

    from diskcsr.interop.torch import BatchDataset

    how = {"batch_size": BATCH, "buffer_size": BUFFER, **how}
    data = BatchDataset(A, shuffle=True, rng=seed, block_size=block, **how)
    of_workers = {"multiprocessing_context": "fork", "persistent_workers": True} if workers else {}
    return DataLoader(data, batch_size=None, num_workers=workers, **of_workers)


def annbatch_loader(store, block, seed):
    from annbatch import Loader
    from anndata.io import sparse_dataset

    loader = Loader(
        batch_size=BATCH, chunk_size=block, preload_nchunks=BUFFER // block, shuffle=True,
        rng=np.random.default_rng(seed), preload_to_gpu=False,
    )  # fmt: skip
    loader.add_dataset(sparse_dataset(store["X"]))
    return (batch["X"] for batch in loader)


def write_annbatch(path, X):
    """Write annbatch's own store, read through zarrs as it advises."""
    import anndata
    import zarr
    from annbatch import write_sharded
    from scipy.sparse import csr_matrix

    zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})
    write_sharded(zarr.open_group(path, mode="w"), anndata.AnnData(X=csr_matrix(X)))
    return zarr.open_group(path, mode="r")


def to_device(loader):
    """Batches on the GPU, dense there."""
    import torch

    for batch in loader:
        yield batch.to("cuda", non_blocking=True).to_dense()
    torch.cuda.synchronize()


class Systems:
    """What is timed for one file and one size of block: each gives an epoch of a seed."""

    def __init__(self, X, A, handle, store, block, args):
        self.epochs = {REFERENCE: lambda seed: scipy_batches(X, block, seed)}
        self.epochs[OWN] = lambda seed: own_batches(A, block, seed)
        if args.torch:
            for workers in args.workers:
                beside = f", {workers} workers" if workers else ""
                self._add(f"{SPARSE}{beside}", torch_loader(A, block, 0, workers))
                dense = {"batch_size": DENSE_BATCH, "dense": True}
                self._add(f"{DENSE}{beside}", torch_loader(A, block, 0, workers, **dense))
            if args.gpu:
                loader = torch_loader(A, block, 0, 0, pin_memory=True, batch_size=DENSE_BATCH)
                self.epochs["torch sparse to the GPU, dense there"] = lambda seed: to_device(loader)
        if handle is not None:
            self.epochs[SCDATASET] = lambda seed: scdataset_batches(handle, block, seed)
        if store is not None:
            self.epochs[ANNBATCH] = lambda seed: annbatch_loader(store, block, seed)

    def _add(self, name, loader):
        self.epochs[name] = lambda seed: iter(loader)

    def most(self, name, rows, args):
        """How many rows of an epoch are timed."""
        if name in (SCDATASET, ANNBATCH):
            return min(rows, args.peer_rows)
        return min(rows, args.dense_rows) if name.startswith(DENSE) else rows


def check_epoch(name, batches, X, most):
    """Raise SystemExit unless an epoch holds every row once: by how much is stored in all."""
    rows, stored, total = 0, 0, 0.0
    for batch in batches:
        rows += batch.shape[0]
        if most < X.shape[0]:
            if rows >= most:
                return
            continue
        if hasattr(batch, "numpy"):
            values = batch.values() if batch.is_sparse_csr else batch
            stored, total = stored + int((values != 0).sum()), total + float(values.double().sum())
        else:
            stored, total = stored + batch.nnz, total + batch.data.sum(dtype=np.float64)
    wanted = X.shape[0], X.nnz, X.data.sum(dtype=np.float64)
    if (rows, stored, total) != wanted:
        raise SystemExit(f"{name}: an epoch gave {(rows, stored, total)}, not {wanted}")


def measure(systems, X, args):
    """Return {system: [rows a second]}, systems in turns."""
    found = {name: [] for name in systems.epochs}
    for name, epoch in systems.epochs.items():
        if name in (SCDATASET, ANNBATCH) and args.peer_rows < X.shape[0]:
            continue  # nor is an epoch of theirs checked, which may take minutes
        check_epoch(name, epoch(args.repeats), X, systems.most(name, X.shape[0], args))
    for repeat in range(args.repeats):
        for name in turn(found, repeat, args.repeats, args.repeats):
            if name in (SCDATASET, ANNBATCH) and repeat:
                continue  # once: they take longer than all else together
            batches = systems.epochs[name](repeat)
            found[name].append(rows_a_second(batches, systems.most(name, X.shape[0], args)))
            del batches
    return found


FRESH = """
import json, re, sys, time
sys.path[:0] = sys.argv[1:3]
start = time.perf_counter()
import training, diskcsr
A = diskcsr.open(sys.argv[3], "X")
if sys.argv[5] == "1":
    batches = training.torch_loader(A, int(sys.argv[4]), 0, 0)
else:
    batches = A.batches(
        training.BATCH, shuffle=True, rng=0, block_size=int(sys.argv[4]),
        buffer_size=training.BUFFER,
    )
begun, seconds, held = time.perf_counter() - start, [], []
for _ in range(3):
    start = time.perf_counter()
    for batch in batches:
        pass
    seconds.append(time.perf_counter() - start)
    del batch
    status = open("/proc/self/status").read()
    held.append(int(re.search(r"RssAnon:\\s+(\\d+)", status).group(1)) * 1024)
print(json.dumps({"begun": begun, "seconds": seconds, "held": held}))
"""


def fresh(path, block, with_torch):
    """Time three epochs of a fresh process, and say what it holds after each."""
    here = Path(__file__).resolve().parent
    root = Path(diskcsr.__file__).resolve().parent.parent
    arguments = map(str, (root, here, path, block, int(with_torch)))
    command = [sys.executable, "-W", "ignore", "-c", FRESH, *arguments]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def run_file(file, X, store, folder, args, results):
    path = Path(folder, f"{file}.h5")
    diskcsr.write(path, X, **FILES[file]).close()
    read_through(path)
    print(f"\n{file}: {path.stat().st_size / 1e6:,.0f} MB; rows a second, and times scipy")
    print(f"    {'block':<38}" + "".join(f"{block:>18}" for block in args.blocks), flush=True)
    rates = {}
    with diskcsr.open(path, "X") as A, h5py.File(path) as f:
        handle = None
        if args.scdataset:
            from anndata.io import sparse_dataset

            handle = sparse_dataset(f["X"])
        for block in args.blocks:
            found = measure(Systems(X, A, handle, store, block, args), X, args)
            rates[block] = {name: statistics.median(values) for name, values in found.items()}
            results.append({"file": file, "block": block, "rate": rates[block], "all": found})
    for name in next(iter(rates.values())):
        cells = [
            f"{rates[block][name]:>10,.0f} ({rates[block][name] / rates[block][REFERENCE]:>5.2f})"
            for block in args.blocks
        ]
        print(f"    {name:<38}" + "".join(f"{cell:>18}" for cell in cells), flush=True)
    for with_torch in range(1 + args.torch):
        once = fresh(path, args.blocks[0], with_torch)
        first, *later = once["seconds"]
        name = SPARSE if with_torch else OWN
        held = ", ".join(f"{value / 1e6:,.0f}" for value in once["held"])
        print(
            f"    fresh process, {name}, block {args.blocks[0]}: first epoch {first:.2f} s, then "
            f"{later[0]:.2f} and {later[1]:.2f}; MB held after each: {held}"
        )
        results.append({"file": file, "fresh": name, **once})
    path.unlink()


def convert_cost(X):
    """Print what a tensor of a batch costs beside fetching it."""
    from diskcsr.interop.torch import to_tensor

    for size in (64, BATCH):
        batch = X[: min(size, X.shape[0])]
        seconds = []
        for _ in range(200):
            start = time.perf_counter()
            to_tensor(batch)
            seconds.append(time.perf_counter() - start)
        best = statistics.median(seconds)
        print(f"a tensor of a batch of {batch.shape[0]:,} rows: {best * 1e6:.0f} us, no copy")


def print_expected(results):
    rate = {(row["file"], row["block"]): row["rate"] for row in results if "block" in row}
    print("\nexpected")
    for file, block, name, over, least in EXPECTED:
        found = rate.get((file, block), {})
        if name in found:
            ratio = found[name] / found[over]
            verdict = "met" if ratio >= least else "MISSED"
            print(f"    {file}, block {block}: {name} at least {least} x {over}: "
                  f"{ratio:.2f}, {verdict}")  # fmt: skip


def run(args, folder):
    rng = np.random.default_rng(args.seed)
    packages = ("torch", "scDataset", "annbatch", "anndata")
    about = {"machine": machine(), "versions": versions(*packages)}
    for value in about.values():
        print(", ".join(f"{key} {item}" for key, item in value.items()))
    X = make_matrix(min(args.rows, DISTINCT), COLUMNS, STORED_PER_ROW, rng)
    if args.rows > DISTINCT:
        X = X[rng.integers(0, DISTINCT, args.rows)]
    args.torch, args.gpu = installed("torch"), False
    if args.torch:
        import torch

        args.gpu = torch.cuda.is_available()
    print(
        f"{X.shape[0]:,} x {X.shape[1]:,}, {X.nnz / X.shape[0]:,.0f} stored a row ({X.data.dtype}, "
        f"{X.indices.dtype}); batches of {BATCH:,} from buffers of {BUFFER:,} rows, dense ones of "
        f"{DENSE_BATCH}; {diskcsr.options.num_threads} threads; warm page cache"
    )
    args.scdataset = installed("scdataset") and installed("anndata")
    for name, there in (("torch", args.torch), ("scDataset", args.scdataset)):
        if not there:
            print(f"{name} is not installed: left out")
    if not args.gpu:
        print("there is no GPU that torch knows of: no rows to a device")
    store = None
    if installed("annbatch") and installed("zarrs"):
        store = write_annbatch(str(Path(folder, "annbatch.zarr")), X)
    else:
        print("annbatch and zarrs are not installed: left out")
    if args.torch:
        convert_cost(X)
    results, others = [], Others()
    for file in args.files:
        run_file(file, X, store, folder, args, results)
    about |= {"busy_with_others": print_busy(others), "results": results}
    print_expected(results)
    return about


OPTIONS = {
    "--rows": count(4000),
    "--blocks": {"type": int, "nargs": "+", "default": [1, 32, 64, 512]},
    "--files": some_of(FILES),
    "--workers": {"type": int, "nargs": "+", "default": [0, 2]},
    "--repeats": count(2, "epochs"),
    "--dense-rows": count(1024, "of an epoch of dense batches that are timed"),
    "--peer-rows": count(1000, "of an epoch of scDataset and annbatch that are timed"),
    "--seed": SEED,
    "--threads": THREADS,
}


if __name__ == "__main__":
    script(run, __doc__, "0.5 GB, or 2.5 KB a row and file", OPTIONS)
