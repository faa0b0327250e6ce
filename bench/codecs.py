"""What decodes HDF5's filters fastest: candidate libraries, our kernels, and h5py, in one run.

    python bench/codecs.py [--chunks N] [--repeats N]

The data are as in single-cell counts: float32 values (zipf) and int32 column numbers, sorted
within rows of 1,800, in chunks of 65,536 elements (256 KiB), as they are and byte-shuffled. Every
decoder's answer is compared with the original before it is timed. Speeds are of decoded bytes, the
best of several rounds over all chunks; all data are in memory, so nothing is cold. "1 thread" is by
the processor time of that thread, so other work on the machine hardly counts; "2 threads" is what
two threads that each do all of the work get through, by the clock. "GIL" is the longest time
another thread stood still while one call decoded 64 MB, as a share of that call: near 0 when the
GIL was released, near 1 when not. What is not installed is left out and named at the end.
"""

import argparse
import importlib
import importlib.metadata
import os
import platform
import sys
import threading
import time
import warnings
import zlib
from datetime import date

import h5py
import numpy as np

from diskcsr.storage.codecs.pipeline import (
    decode_whole,
    encode_chunk,
    gather_pieces,
    pipeline_of,
    stages_of,
    unsupported,
)

CHUNK = 65_536
missing = set()


def library(name):
    """Import a module, or remember that it is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except ImportError:
        missing.add(name.partition(".")[0])
        return None


def make_arrays(chunks, seed=0):
    """Return values and column numbers, `chunks` chunks of each."""
    rng = np.random.default_rng(seed)
    columns, n = 28_000, chunks * CHUNK
    weight = 1 / (np.arange(columns) + 50.0) ** 0.9
    order = rng.permutation(columns)
    indices, total = [], 0
    while total < n:
        drawn = rng.choice(columns, int(rng.gamma(4, 450)) + 10, p=weight / weight.sum())
        indices.append(np.unique(order[drawn]))
        total += indices[-1].size
    values = np.minimum(rng.zipf(2.2, n), 5000).astype(np.float32)
    return values, np.concatenate(indices)[:n].astype(np.int32)


def shuffled(array):
    return np.ascontiguousarray(array.view(np.uint8).reshape(-1, array.itemsize).T).tobytes()


# Timing


def best(work, repeats):
    """Return the least processor time of several runs, in seconds.

    In a thread of its own, where libraries that have threads leave them alone.
    """
    taken = []

    def run():
        for _ in range(repeats):
            start = time.thread_time()
            work()
            taken.append(time.thread_time() - start)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return min(taken)


def two_threads(work, repeats):
    """Return the shortest time, by the clock, in which two threads each did the work once."""
    together = threading.Barrier(2)
    starts, ends = np.zeros((2, 2, repeats))

    def run(which):
        for i in range(repeats):
            together.wait()
            starts[which, i] = time.perf_counter()
            work()
            ends[which, i] = time.perf_counter()

    threads = [threading.Thread(target=run, args=(which,)) for which in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return float((ends.max(axis=0) - starts.min(axis=0)).min())


def standstill(call):
    """Return for what share of the duration of a call another thread stood still at a stretch."""
    over, duration = threading.Event(), []

    def work():
        start = time.perf_counter()
        call()
        duration.append(time.perf_counter() - start)
        over.set()

    thread = threading.Thread(target=work)
    longest, last = 0.0, time.perf_counter()
    thread.start()
    while not over.is_set():
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    thread.join()
    return min(1.0, longest / duration[0])


# The candidates: name -> (encode, decode(packed, length, out)). A decoder returns the bytes, or
# None or False when it wrote them to `out`.


def deflate_candidates():
    found = {"zlib (Python's)": (None, lambda e, n, out: zlib.decompressobj().decompress(e, n + 1))}
    if isal := library("isal.isal_zlib"):
        found["isal"] = (None, lambda e, n, out: isal.decompress(e, 15, n))
    if ng := library("zlib_ng.zlib_ng"):
        found["zlib-ng"] = (None, lambda e, n, out: ng.decompress(e, 15, n))
    if lib := library("deflate"):
        found["deflate"] = (None, lambda e, n, out: lib.zlib_decompress(e, n))
    if ic := library("imagecodecs"):
        found["imagecodecs"] = (None, lambda e, n, out: ic.deflate_decode(e, out=out) is None)
    return {
        name: (lambda raw: zlib.compress(raw, 4), decode) for name, (_, decode) in found.items()
    }


def zstd_candidates():
    found = {}
    encoder = library("numcodecs.zstd")
    if encoder is None:
        return found
    encode = lambda raw: encoder.compress(raw, 3)  # noqa: E731
    found["numcodecs"] = (encode, lambda e, n, out: encoder.decompress(e, out) is None)
    if z := library("zstandard"):
        found["zstandard"] = (encode, lambda e, n, out: z.ZstdDecompressor().decompress(e))
    if b := library("backports.zstd"):
        found["backports.zstd"] = (encode, lambda e, n, out: b.decompress(e))
    if ic := library("imagecodecs"):
        found["imagecodecs"] = (encode, lambda e, n, out: ic.zstd_decode(e, out=out) is None)
    return found


def lz4_candidates():
    found = {}
    encoder = library("numcodecs.lz4")
    if encoder is None:
        return found
    found["numcodecs"] = (encoder.compress, lambda e, n, out: encoder.decompress(e, out) is None)
    bare = lambda raw: encoder.compress(raw)[4:]  # noqa: E731
    if lz4 := library("lz4.block"):
        found["lz4"] = (bare, lambda e, n, out: lz4.decompress(e, uncompressed_size=n))
    if ic := library("imagecodecs"):
        found["imagecodecs"] = (bare, lambda e, n, out: ic.lz4_decode(e, out=out) is None)
    return found


def blosc_candidates():
    found = {}
    encoder = library("numcodecs.blosc")
    if encoder is None:
        return found

    def encode(raw):
        return encoder.compress(np.frombuffer(raw, np.int32), b"lz4", 5, 1)

    found["numcodecs"] = (encode, lambda e, n, out: encoder.decompress(e, out) is None)
    if ic := library("imagecodecs"):
        found["imagecodecs"] = (
            encode,
            lambda e, n, out: ic.blosc_decode(e, numthreads=1, out=out) is None,
        )
    if b2 := library("blosc2"):
        found["blosc2"] = (encode, lambda e, n, out: b2.decompress2(e, out, nthreads=1))
    return found


def blosc2_candidates():
    found = {}
    b2, ic = library("blosc2"), library("imagecodecs")
    if b2 is None:
        return found

    def encode(raw):
        return bytes(b2.compress2(raw, typesize=4, codec=b2.Codec.LZ4, nthreads=1))

    found["blosc2"] = (encode, lambda e, n, out: b2.decompress2(e, out, nthreads=1))
    if ic:
        found["imagecodecs"] = (
            encode,
            lambda e, n, out: ic.blosc2_decode(e, numthreads=1, out=out) is None,
        )
    return found


def lzf_candidates():
    from diskcsr.kernels import lzf

    def encode(raw):
        data = np.frombuffer(raw, np.uint8)
        out = np.empty(data.size + data.size // 32 + 2, np.uint8)
        return out[: lzf.compress(data, out)].tobytes()

    def decode(packed, n, out):
        lzf.decompress(np.frombuffer(packed, np.uint8), out)

    found = {"diskcsr (numba)": (encode, decode)}
    if ic := library("imagecodecs"):
        found["imagecodecs"] = (encode, lambda e, n, out: ic.lzf_decode(e, out=out) is None)
    return found


CODECS = {
    "deflate": deflate_candidates,
    "zstd": zstd_candidates,
    "lz4": lz4_candidates,
    "blosc lz4": blosc_candidates,
    "blosc2 lz4": blosc2_candidates,
    "lzf": lzf_candidates,
}

ENCODERS = {
    "deflate": {
        "zlib (Python's), level 4": lambda raw: zlib.compress(raw, 4),
        "deflate, level 1": ("deflate", lambda m, raw: m.zlib_compress(raw, 1)),
        "deflate, level 2": ("deflate", lambda m, raw: m.zlib_compress(raw, 2)),
        "deflate, level 4": ("deflate", lambda m, raw: m.zlib_compress(raw, 4)),
        "deflate, level 6": ("deflate", lambda m, raw: m.zlib_compress(raw, 6)),
        "isal, level 1": ("isal.isal_zlib", lambda m, raw: m.compress(raw, 1)),
        "zlib-ng, level 4": ("zlib_ng.zlib_ng", lambda m, raw: m.compress(raw, 4)),
    },
    "zstd": {
        "numcodecs, level 1": ("numcodecs.zstd", lambda m, raw: m.compress(raw, 1)),
        "numcodecs, level 3": ("numcodecs.zstd", lambda m, raw: m.compress(raw, 3)),
        "zstandard, level 3": ("zstandard", lambda m, raw: m.compress(raw, 3)),
    },
    "lz4": {
        "numcodecs": ("numcodecs.lz4", lambda m, raw: m.compress(raw)),
        "lz4": ("lz4.block", lambda m, raw: m.compress(raw)),
    },
    "lzf": {
        "diskcsr (numba)": (
            "diskcsr.storage.codecs.lzf",
            lambda m, raw: m.CODEC.encode(np.frombuffer(raw, np.uint8), ()),
        ),
        "imagecodecs": ("imagecodecs", lambda m, raw: m.lzf_encode(raw)),
    },
}


def measure_libraries(layouts, repeats):
    print("Decoding, MB/s of decoded bytes")
    heading = ("layout", "codec", "library", "1 thread", "2 threads", "GIL", "ratio")
    print("{:9} {:11} {:16} {:>9} {:>10} {:>5} {:>6}".format(*heading))
    for (layout, raws), (codec, candidates) in (
        (layout, codec) for layout in layouts.items() for codec in CODECS.items()
    ):
        nbytes = sum(map(len, raws))
        for name, (encode, decode) in candidates().items():
            packed = [encode(raw) for raw in raws]
            check(decode, packed[0], raws[0], f"{name} {codec}")

            def work(packed=packed, decode=decode):
                out = np.empty(4 * CHUNK, np.uint8)
                for chunk in packed:
                    decode(chunk, 4 * CHUNK, out)

            one, two = best(work, repeats), two_threads(work, repeats)
            gil = min(share_held(encode, decode, raws[0]) for _ in range(3))
            ratio = nbytes / sum(map(len, packed))
            print(
                f"{layout:9} {codec:11} {name:16} {nbytes / one / 1e6:9,.0f} "
                f"{2 * nbytes / two / 1e6:10,.0f} {gil:5.2f} {ratio:6.2f}",
                flush=True,
            )


def share_held(encode, decode, raw):
    """Return `standstill` for one call that decodes 64 MB (256 chunks), all copies of `raw`."""
    big = raw * 256
    packed, out = encode(big), np.empty(len(big), np.uint8)
    return standstill(lambda: decode(packed, len(big), out))


def check(decode, packed, raw, what):
    """Stop when a decoder's answer is wrong: its speed would mean nothing."""
    out = np.zeros(len(raw), np.uint8)
    found = decode(packed, len(raw), out)
    if found is None or found is False:
        found = out
    if bytes(found) != raw:
        sys.exit(f"{what}: wrong bytes")


def measure_encoders(layouts, repeats):
    print("\nEncoding, MB/s of bytes before encoding, 1 thread")
    print("{:9} {:8} {:25} {:>9} {:>6}".format("layout", "codec", "library", "MB/s", "ratio"))
    for layout, raws in layouts.items():
        raws = raws[:2] + raws[-2:]
        nbytes = sum(map(len, raws))
        for codec, encoders in ENCODERS.items():
            for name, encode in encoders.items():
                if isinstance(encode, tuple):
                    module, function = library(encode[0]), encode[1]
                    if module is None:
                        continue
                    encode = lambda raw, m=module, f=function: f(m, raw)  # noqa: E731
                size = sum(len(encode(raw)) for raw in raws)
                taken = best(lambda e=encode, raws=raws: [e(raw) for raw in raws], min(repeats, 5))
                print(
                    f"{layout:9} {codec:8} {name:25} {nbytes / taken / 1e6:9,.0f} "
                    f"{nbytes / size:6.2f}",
                    flush=True,
                )


# Whole pipelines, as in files


def pipelines():
    """Name the filters of the files that are made: h5py's keywords."""
    found = {
        "none": {},
        "gzip-4": dict(compression="gzip", compression_opts=4),
        "gzip-4 + shuffle": dict(compression="gzip", compression_opts=4, shuffle=True),
        "lzf": dict(compression="lzf"),
        "lzf + shuffle": dict(compression="lzf", shuffle=True),
        "shuffle": dict(shuffle=True),
        "fletcher32": dict(fletcher32=True),
        "scaleoffset": dict(scaleoffset=0),
        "scaleoffset + shuffle + gzip": dict(scaleoffset=0, shuffle=True, compression="gzip"),
    }
    if plugin := library("hdf5plugin"):
        found |= {
            "zstd": plugin.Zstd(),
            "zstd + shuffle": dict(shuffle=True, **plugin.Zstd()),
            "lz4": plugin.LZ4(),
            "lz4 + shuffle": dict(shuffle=True, **plugin.LZ4()),
            "blosc lz4": plugin.Blosc(cname="lz4", shuffle=1),
            "blosc2 lz4": plugin.Blosc2(cname="lz4", filters=1),
            "bitshuffle": plugin.Bitshuffle(cname="none"),
            "bitshuffle lz4": plugin.Bitshuffle(cname="lz4"),
            "bitshuffle zstd": plugin.Bitshuffle(cname="zstd"),
        }
    return found


def measure_pipelines(arrays, repeats):
    print(
        "\nWhole chunks, MB/s: h5py (no chunk cache), decode_whole, gather_pieces of 16 runs of 100"
    )
    print("elements a chunk (million elements/s), encode_chunk")
    heading = ("filters", "array", "h5py", "decode", "2 threads", "gather", "encode", "ratio")
    print("{:29} {:8} {:>7} {:>7} {:>9} {:>7} {:>7} {:>6}".format(*heading))
    for (name, keywords), (which, array) in (
        (pipeline, array) for pipeline in pipelines().items() for array in arrays.items()
    ):
        with h5py.File("bench.h5", "w", driver="core", backing_store=False, rdcc_nbytes=0) as file:
            dset = file.create_dataset("x", data=array, chunks=(CHUNK,), **keywords)
            measure_pipeline(name, which, dset, array, repeats)


def measure_pipeline(name, which, dset, array, repeats):
    pipeline = pipeline_of(dset)
    if (reason := unsupported(pipeline)) is not None:
        print(f"{name:29} {which:8} {reason}")
        return
    firsts = range(0, array.size, CHUNK)
    masks_and_bytes = [dset.id.read_direct_chunk((first,)) for first in firsts]
    stored = [(stages_of(pipeline, mask), raw) for mask, raw in masks_and_bytes]
    chunks = [array[first : first + CHUNK] for first in firsts]
    found = np.empty(CHUNK, array.dtype)
    for chunk, (stages, raw) in zip(chunks, stored, strict=True):
        if not np.array_equal(decode_whole(raw, stages, pipeline, found), chunk):
            sys.exit(f"{name}: wrong values")
    lo = np.linspace(0, CHUNK - 100, 16).astype(np.int64)
    at = np.arange(16) * 100

    def decode():
        out = np.empty(CHUNK, array.dtype)
        for stages, raw in stored:
            decode_whole(raw, stages, pipeline, out)

    def gather():
        out = np.empty(1600, array.dtype)
        for stages, raw in stored:
            gather_pieces(raw, stages, pipeline, lo, lo + 100, at, out)

    def encode():
        return [encode_chunk(chunk, pipeline) for chunk in chunks[:2]]

    target = np.empty_like(array)
    try:
        gather()
        encode()
        encoding = f"{2 * chunks[0].nbytes / best(encode, min(repeats, 5)) / 1e6:7,.0f}"
    except NotImplementedError:
        encoding = "      -"
    by_h5py = best(lambda: dset.read_direct(target), repeats)
    once, twice = best(decode, repeats), two_threads(decode, repeats)
    gathered = 1600 * len(stored) / best(gather, repeats) / 1e6
    ratio = array.nbytes / sum(len(raw) for _, raw in stored)
    mb = array.nbytes / 1e6
    print(
        f"{name:29} {which:8} {mb / by_h5py:7,.0f} {mb / once:7,.0f} {2 * mb / twice:9,.0f} "
        f"{gathered:7,.1f} {encoding} {ratio:6.2f}",
        flush=True,
    )


def describe_machine():
    with open("/proc/cpuinfo") as lines:
        models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    print(f"{date.today()}, {models[0] if models else platform.machine()}, {os.cpu_count()} cores,")
    load = os.getloadavg()[0]
    print(
        f"load {load:.1f} when the run began, Python {platform.python_version()}, warm (in memory)"
    )
    names = "numpy numba h5py hdf5plugin deflate isal zlib-ng imagecodecs numcodecs lz4 zstandard"
    versions = []
    for name in [*names.split(), "backports.zstd", "blosc2"]:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.add(name)
    versions += [f"HDF5 {h5py.version.hdf5_version}", f"zlib {zlib.ZLIB_RUNTIME_VERSION}"]
    print(f"{', '.join(versions)}\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--chunks", type=int, default=3, help="chunks of each of the two arrays")
    parser.add_argument("--repeats", type=int, default=25, help="rounds, of which the best counts")
    options = parser.parse_args()
    describe_machine()
    values, indices = make_arrays(options.chunks)
    pieces = [a[i : i + CHUNK] for a in (values, indices) for i in range(0, a.size, CHUNK)]
    layouts = {
        "as it is": [piece.tobytes() for piece in pieces],
        "shuffled": [shuffled(piece) for piece in pieces],
    }
    measure_libraries(layouts, options.repeats)
    measure_encoders(layouts, options.repeats)
    measure_pipelines({"values": values, "indices": indices}, options.repeats)
    if missing:
        print(f"\nnot installed: {', '.join(sorted(missing))}")


if __name__ == "__main__":
    main()
