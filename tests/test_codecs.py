"""Decoding and encoding of chunks outside HDF5, against HDF5 itself.

The matrix: filters (alone and in any order, left out by the mask) x dtype x byte order x chunk
length, a partial last chunk included. The kernels are compared with plain Python, and everything
that decodes is fed broken bytes. Sizes are small: the file also runs with ``NUMBA_DISABLE_JIT=1``.
"""

import importlib.util
import itertools
import os
import re
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from pathlib import Path

import h5py
import naive_codecs as naive
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diskcsr.errors import CorruptFileError
from diskcsr.kernels import codecs as kernels
from diskcsr.storage import codecs, filters
from diskcsr.storage.filters import (
    DECODERS,
    ENCODERS,
    FILTERS,
    Filter,
    Pipeline,
    codec_report,
    decode_chunk,
    encode_chunk,
    gather_chunk,
    pipeline_of,
    unsupported,
)
from diskcsr.storage.scaleoffset import ScaleOffset

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import hdf5plugin
except ImportError:
    hdf5plugin = None

quick = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))

INTEGERS = ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"]
DTYPES = [*INTEGERS, "f2", "f4", "f8", "?", "c8", "c16", ">i2", ">u4", ">i8", ">f4", ">f8", ">c8"]
KINDS = ["counts", "sorted", "any", "constant"]

#: Filters as (HDF5's id, client data) in orders that files have, h5py's own among them.
DEFLATE, SHUFFLE, FLETCHER, LZF = (1, (4,)), (2, ()), (3, ()), (32000, ())
INTEGER_SO, FLOAT_SO = (6, (2, 0)), (6, (0, 0))
BUILT_IN = [
    (),
    (DEFLATE,),
    (SHUFFLE,),
    (FLETCHER,),
    (LZF,),
    (SHUFFLE, DEFLATE, FLETCHER),
    (SHUFFLE, LZF),
    (DEFLATE, SHUFFLE),
    (FLETCHER, LZF, SHUFFLE, DEFLATE),
    (LZF, FLETCHER, DEFLATE),
]


def values_of(kind, dtype, n, seed=0):
    """Return `n` values of a dtype, as a sparse matrix may store them, or any bits at all."""
    rng = np.random.default_rng(seed)
    native = np.dtype(dtype).newbyteorder("=")
    if native.kind == "b":
        return rng.random(n) < 0.5
    if kind == "any" and native.kind != "c":
        bits = np.frombuffer(rng.bytes(n * native.itemsize), f"u{native.itemsize}")
        return bits.view(native)
    limit = 100 if kind == "counts" else 120
    values = np.full(n, 7) if kind == "constant" else rng.integers(0, limit, n)
    if kind == "sorted":
        values = np.sort(values)
    if native.kind == "c":
        values = values + 1j * rng.integers(0, 9, n)
    return values.astype(native)


def create(file, dtype, n, chunk, steps, fill=None):
    """Create a dataset with exactly these filters in this order (h5py's own keeps to one)."""
    dtype = np.dtype(dtype)
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((chunk,))
    for id, cd in steps:
        if id == 2:
            plist.set_shuffle()
        elif id == 3:
            plist.set_fletcher32()
        else:
            plist.set_filter(id, h5py.h5z.FLAG_OPTIONAL, cd)
    if fill is not None:
        plist.set_fill_value(np.array(fill, dtype))
    space = h5py.h5s.create_simple((n,), (h5py.h5s.UNLIMITED,))
    tid = h5py.h5t.py_create(dtype, logical=True)
    id = h5py.h5d.create(file.id, b"x%d" % len(file), tid, space, plist)
    return h5py.Dataset(id)


def memory_file():
    """A file without a chunk cache: what is read was stored and decoded, not remembered."""
    return h5py.File("codecs.h5", "w", driver="core", backing_store=False, rdcc_nbytes=0)


def in_native_order(values):
    return values.astype(values.dtype.newbyteorder("="))


def stored_chunks(dset):
    """Yield every chunk's first element, filter mask and bytes."""
    for i in range(dset.id.get_num_chunks()):
        (first,) = dset.id.get_chunk_info(i).chunk_offset
        mask, raw = dset.id.read_direct_chunk((first,))
        yield first, mask, raw


def same_bits(found, expected):
    native = in_native_order(expected)
    assert found.dtype == native.dtype
    assert found.dtype.isnative
    assert found.shape == native.shape
    assert found.tobytes() == native.tobytes()


def check_reading(dset):
    """Every chunk decoded here is what h5py reads; so is any part of it."""
    pipeline = pipeline_of(dset)
    assert unsupported(pipeline) is None
    expected = dset[:]
    total = 0
    for first, mask, raw in stored_chunks(dset):
        found = decode_chunk(raw, mask, pipeline)
        assert found.shape == (pipeline.chunk,)
        piece = expected[first : first + pipeline.chunk]
        same_bits(found[: piece.size], piece)
        total += piece.size
        out = np.zeros(pipeline.chunk, pipeline.native)
        assert decode_chunk(memoryview(bytearray(raw)), mask, pipeline, out) is out
        same_bits(out, found)
        check_gather(raw, mask, pipeline, found)
    assert total == expected.size


def check_gather(raw, mask, pipeline, values):
    n = pipeline.chunk
    lo, hi = np.array([n // 3, 0, n - 1, n // 2]), np.array([n // 2, 1, n, n // 2])
    at = np.array([3, 0, 2, 1])
    out = np.zeros(3 + n, pipeline.native)
    expected = out.copy()
    for a, b, to in zip(lo, hi, at, strict=True):
        expected[to : to + b - a] = values[a:b]
    gather_chunk(raw, mask, pipeline, lo, hi, at, out)
    same_bits(out, expected)


def check_writing(file, dset, values):
    """Chunks encoded here are read by HDF5, and by the decoder; returns what HDF5 reads."""
    pipeline = pipeline_of(dset)
    assert unsupported(pipeline, encode=True) is None
    n = pipeline.chunk
    padded = np.full(-(-values.size // n) * n, dset.fillvalue, pipeline.native)
    padded[: values.size] = values
    for first in range(0, padded.size, n):
        raw = encode_chunk(padded[first : first + n], pipeline)
        assert isinstance(raw, bytes)
        dset.id.write_direct_chunk((first,), raw)
    check_reading(dset)
    return in_native_order(dset[:])


# ---------------------------------------------------------------- files by HDF5's own filters


@pytest.mark.parametrize("steps", BUILT_IN, ids=lambda steps: "-".join(str(s[0]) for s in steps))
@pytest.mark.parametrize("dtype", DTYPES)
def test_reads_what_hdf5_wrote(steps, dtype):
    for kind, (n, chunk) in itertools.product(KINDS, [(100, 37), (64, 64), (5, 1), (9, 200)]):
        if kind in ("sorted", "constant") and chunk != 37:
            continue
        with memory_file() as file:
            dset = create(file, dtype, n, chunk, steps)
            dset[...] = values_of(kind, dtype, n)
            check_reading(dset)


@pytest.mark.parametrize("steps", BUILT_IN, ids=lambda steps: "-".join(str(s[0]) for s in steps))
@pytest.mark.parametrize("dtype", DTYPES)
def test_hdf5_reads_what_was_encoded(steps, dtype):
    for kind, (n, chunk) in itertools.product(KINDS, [(100, 37), (5, 1)]):
        values = values_of(kind, dtype, n)
        with memory_file() as file:
            found = check_writing(file, create(file, dtype, n, chunk, steps), values)
            same_bits(found, values)


@quick
@given(data=st.data())
def test_any_order_of_filters_and_any_mask(data):
    dtype = data.draw(st.sampled_from(DTYPES), "dtype")
    is_float = np.dtype(dtype).kind == "f"
    pool = [DEFLATE, SHUFFLE, FLETCHER, LZF]
    steps = data.draw(st.lists(st.sampled_from(pool), max_size=4, unique=True), "steps")
    can_pack = np.dtype(dtype).kind in "iuf" and dtype != "f2"
    if can_pack and data.draw(st.booleans(), "scaleoffset"):
        # Alone or behind shuffle it gets a chunk of the right length, which it insists on.
        place = 1 if steps[:1] == [SHUFFLE] and not is_float else 0
        steps.insert(place, FLOAT_SO if is_float else INTEGER_SO)
    chunk = data.draw(st.integers(1, 90), "chunk")
    n = data.draw(st.integers(1, 200), "n")
    kinds = ["counts", "sorted", "constant"] if is_float else KINDS
    values = values_of(data.draw(st.sampled_from(kinds), "kind"), dtype, n, seed=n)
    with memory_file() as file:
        dset = create(file, dtype, n, chunk, steps)
        dset[...] = values
        check_reading(dset)
        mask = data.draw(st.integers(0, (1 << len(steps)) - 1), "mask")
        pipeline = pipeline_of(dset)
        kept = tuple(f for i, f in enumerate(pipeline.filters) if not mask >> i & 1)
        partial = Pipeline(kept, pipeline.dtype, pipeline.chunk)
        if unsupported(partial) is None:
            padded = np.zeros(chunk, pipeline.native)
            padded[: min(n, chunk)] = values[:chunk]
            raw = encode_chunk(padded, partial)
            # A new dataset, because HDF5 keeps the mask of a chunk that it overwrites with one of
            # the same length; opened anew, because it takes the mask for 0 while this one is open.
            dset = create(file, dtype, chunk, chunk, steps)
            dset.id.write_direct_chunk((0,), raw, filter_mask=mask)
            name = dset.name
            del dset
            check_reading(file[name])
            same_bits(decode_chunk(raw, mask, pipeline), padded)


def test_filters_that_do_not_shrink_are_left_out_by_hdf5():
    with memory_file() as file:
        values = np.frombuffer(np.random.default_rng(0).bytes(800), "i4")
        dset = file.create_dataset("x", data=values, chunks=(100,), compression="lzf", shuffle=True)
        masks = {mask for _, mask, _ in stored_chunks(dset)}
        assert masks == {2}
        check_reading(dset)


@pytest.mark.parametrize("dtype", [*INTEGERS, ">i2", ">i4", ">u8"])
@pytest.mark.parametrize("fill", [None, 0, 7, 120])
def test_scaleoffset_of_integers(dtype, fill):
    info = np.iinfo(np.dtype(dtype))
    cases = [values_of(kind, dtype, 30) for kind in KINDS]
    # Spans round every width, and those at which the library gives up packing.
    top, bottom = info.max, info.min
    pairs = [(0, 1), (bottom, top), (top - 3, top), (bottom, bottom + 9), (bottom, top // 2)]
    pairs += [(0, top - k) for k in range(4)] + [(bottom + k, top) for k in range(4)]
    pairs += [(3, 2**k + 3) for k in range(0, info.bits - 2, 3)]
    cases += [np.array(pair * 15, cases[0].dtype) for pair in pairs]
    for values in cases:
        for factor in (0, 3, info.bits - 1, info.bits):  # 0: as many bits as needed
            with memory_file() as file:
                dset = create(file, dtype, 30, 17, [(6, (2, factor))], fill)
                dset[...] = values
                check_reading(dset)
                by_hdf5 = list(stored_chunks(dset))
                read = in_native_order(dset[:])
                again = create(file, dtype, 30, 17, [(6, (2, factor))], fill)
                found = check_writing(file, again, values)
                if factor == 0:
                    same_bits(found, values.astype(dtype))
                same_bits(found, read)
                # The same bytes, too.
                assert [raw for *_, raw in stored_chunks(again)] == [raw for *_, raw in by_hdf5]


@pytest.mark.parametrize("dtype", ["f4", "f8", ">f4", ">f8"])
@pytest.mark.parametrize("fill", [None, 0, 2.5])
def test_scaleoffset_of_floats(dtype, fill):
    rng = np.random.default_rng(1)
    cases = [
        rng.integers(0, 50, 70),
        rng.random(70) * 100 - 50,
        np.full(70, 2.5),
        np.full(70, -1.25),
        np.linspace(-1e9, 1e9, 70),
        np.tile([0.5, 1.5, 2.5, -0.5, 0.49999997, 3.4999998, 0.0], 10),
        np.tile([0, 1e30], 35),
    ]
    for values, factor in itertools.product(cases, [0, 1, 3, 6, -2]):
        values = values.astype(np.dtype(dtype).newbyteorder("="))
        steps = [(6, (0, factor % 2**32))]
        with memory_file() as file:
            dset = create(file, dtype, 70, 33, steps, fill)
            dset[...] = values
            check_reading(dset)
            again = create(file, dtype, 70, 33, steps, fill)
            same_bits(check_writing(file, again, values), in_native_order(dset[:]))
            ours, theirs = stored_chunks(again), stored_chunks(dset)
            assert [raw for *_, raw in ours] == [raw for *_, raw in theirs]


@pytest.mark.parametrize("values", [[np.nan, 1], [np.inf, 1]])
def test_scaleoffset_refuses_what_it_cannot_store(values):
    with memory_file() as file:
        pipeline = pipeline_of(create(file, "f4", 2, 2, [FLOAT_SO]))
    with pytest.raises(ValueError, match="NaN"):
        encode_chunk(np.array(values, np.float32), pipeline)


@pytest.mark.parametrize("fill", [None, 5])
@pytest.mark.parametrize("dtype", ["i4", "u1", "f4", ">f8"])
def test_scaleoffset_headers_that_only_other_software_writes(dtype, fill):
    """No bits at all, the full width, a short minimum: HDF5's reading says what they mean."""
    is_float = np.dtype(dtype).kind == "f"
    size = np.dtype(dtype).itemsize
    minimum = np.array([3], np.dtype(dtype).newbyteorder("<")).tobytes().ljust(8, b"\0")
    payload = bytes(range(1, 8 * 9 + 1))
    for bits, length in [(0, 8), (8 * size, 8), (5, 8), (5, size), (8 * size - 1, 8)]:
        with memory_file() as file:
            dset = create(file, dtype, 8, 8, [FLOAT_SO if is_float else INTEGER_SO], fill)
            header = struct.pack("<IB", bits, length) + minimum + b"\0" * 8
            dset.id.write_direct_chunk((0,), header + payload)
            check_reading(dset)


@pytest.mark.parametrize(
    "kwargs",
    [
        dict(compression="gzip"),
        dict(compression="gzip", compression_opts=1, shuffle=True, fletcher32=True),
        dict(compression="lzf", shuffle=True),
        dict(scaleoffset=0),
        dict(scaleoffset=0, shuffle=True, compression="gzip"),
        dict(scaleoffset=0, compression="lzf"),
        dict(fletcher32=True),
        dict(),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", ["f4", "i4", "i8", ">i4"])
def test_reads_what_h5py_writes(kwargs, dtype):
    with memory_file() as file:
        values = values_of("counts", dtype, 500).astype(dtype)
        check_reading(file.create_dataset("x", data=values, chunks=(128,), **kwargs))


# ---------------------------------------------------------------- files by the plugins


def plugin_options():
    if hdf5plugin is None:
        return []
    p = hdf5plugin
    blosc = [
        p.Blosc(cname=c, shuffle=s)
        for c in ("blosclz", "lz4", "lz4hc", "zlib", "zstd")
        for s in (0, 1, 2)
    ]
    blosc2 = [p.Blosc2(cname=c, filters=f) for c in ("blosclz", "lz4", "zstd") for f in (0, 1, 2)]
    shuffled = [
        p.Bitshuffle(cname="none"),
        p.Bitshuffle(cname="lz4"),
        p.Bitshuffle(nelems=16, cname="lz4"),
        p.Bitshuffle(nelems=64, cname="zstd"),
        p.Bitshuffle(nelems=8, cname="none"),
    ]
    lz4 = [p.LZ4(), p.LZ4(nbytes=64)]
    return [*blosc, *blosc2, *shuffled, *lz4, p.Zstd(), p.Zstd(clevel=9)]


@pytest.mark.skipif(hdf5plugin is None, reason="hdf5plugin is not installed")
@pytest.mark.parametrize(
    "options", plugin_options(), ids=lambda o: f"{o.filter_id}-{o.filter_options}"
)
@pytest.mark.parametrize("dtype", ["i1", "u2", "f4", "i8", "c16", ">i4", "?"])
def test_reads_what_the_plugins_wrote(options, dtype):
    for kind, (n, chunk) in itertools.product(["counts", "any"], [(300, 111), (8, 8), (700, 700)]):
        for extra in ({}, {"shuffle": True, "fletcher32": True}):
            with memory_file() as file:
                values = values_of(kind, dtype, n).astype(dtype)
                dset = file.create_dataset("x", data=values, chunks=(chunk,), **options, **extra)
                reason = unsupported(pipeline_of(dset))
                if reason is not None:
                    assert "extra" in reason
                    pytest.skip(reason)
                check_reading(dset)


@pytest.mark.skipif(hdf5plugin is None, reason="hdf5plugin is not installed")
@pytest.mark.parametrize(
    "options", plugin_options(), ids=lambda o: f"{o.filter_id}-{o.filter_options}"
)
@pytest.mark.parametrize("dtype", ["i1", "f4", ">i8"])
def test_the_plugins_read_what_was_encoded(options, dtype):
    with memory_file() as file:
        values = values_of("counts", dtype, 300)
        dset = file.create_dataset("x", (300,), dtype, chunks=(111,), shuffle=True, **options)
        if options.filter_id not in ENCODERS:
            assert "has no encoder" in unsupported(pipeline_of(dset), encode=True)
            return
        reason = unsupported(pipeline_of(dset), encode=True)
        if reason is not None:
            pytest.skip(reason)
        same_bits(check_writing(file, dset, values), values)


#: Client data with which each encoder can be tried without HDF5 and its plugins.
ENCODED = {
    1: [(), (0,), (1,), (9,)],
    2: [(1,), (2,), (4,), (3,), (8,), (1000,)],
    3: [()],
    6: [(2, 0, 96, 0, 4, 1, 0, 0)],
    32000: [()],
    32001: [(), (2, 2, 4, 384, 9, 2, 5), (2, 2, 1, 384, 1, 0, 1)],
    32004: [(), (0,), (64,), (100,), (1 << 30,)],
    32015: [(), (1,), (0xFFFFFFFD,), (19,)],
}


@pytest.mark.parametrize("id", sorted(ENCODED))
@pytest.mark.parametrize("kind", KINDS)
def test_what_was_encoded_is_decoded(id, kind):
    assert set(ENCODED) == set(ENCODERS)
    values = values_of(kind, "i4", CHUNK)
    for cd in ENCODED[id]:
        pipeline = pipeline_with(id, cd)
        if (reason := unsupported(pipeline, encode=True)) is not None:
            pytest.skip(reason)
        raw = encode_chunk(values, pipeline)
        same_bits(decode_chunk(raw, 0, pipeline), values)
        check_gather(raw, 0, pipeline, values)


# ---------------------------------------------------------------- broken bytes

CHUNK = 96


def sample_pipelines():
    """Yield every pipeline that can be decoded here, with the bytes of one chunk by HDF5."""
    wanted = [[s] for s in (DEFLATE, SHUFFLE, FLETCHER, LZF, INTEGER_SO)]
    wanted += [[INTEGER_SO, SHUFFLE, DEFLATE, FLETCHER], [LZF, DEFLATE], [DEFLATE, LZF], []]
    values = values_of("sorted", "i4", CHUNK)
    with memory_file() as file:
        datasets = [create(file, "i4", CHUNK, CHUNK, steps) for steps in wanted]
        for i, options in enumerate(plugin_options()):
            datasets.append(
                file.create_dataset(f"p{i}", (CHUNK,), "i4", chunks=(CHUNK,), **options)
            )
        for dset in datasets:
            dset[...] = values
            pipeline = pipeline_of(dset)
            if unsupported(pipeline) is None:
                mask, raw = dset.id.read_direct_chunk((0,))
                yield pipeline, mask, raw


SAMPLES = list(sample_pipelines())


def decode_or_refuse(raw, mask, pipeline):
    """A broken chunk is refused or gives values of the right length; guards catch stray writes."""
    guarded = np.full(CHUNK + 64, 0x5A5A5A5A, np.int32)
    out = guarded[32:-32]
    try:
        found = decode_chunk(raw, mask, pipeline, out)
    except CorruptFileError:
        found = None
    assert (guarded[:32] == 0x5A5A5A5A).all()
    assert (guarded[-32:] == 0x5A5A5A5A).all()
    part = np.zeros(CHUNK, np.int32)
    try:
        gather_chunk(raw, mask, pipeline, [5, 60], [50, CHUNK], [0, 45], part)
    except CorruptFileError:
        assert found is None
    else:
        if found is not None:
            assert part[:81].tolist() == [*found[5:50], *found[60:]]
    return found


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda s: str([f.name for f in s[0].filters]))
@quick
@given(data=st.data())
def test_broken_bytes_are_refused(sample, data):
    pipeline, mask, raw = sample
    broken = bytearray(raw)
    how = data.draw(st.sampled_from(["change", "cut", "garbage", "number", "grow"]))
    if how == "cut":
        del broken[data.draw(st.integers(0, len(broken) - 1)) :]
    elif how == "garbage":
        broken = bytearray(data.draw(st.binary(max_size=200)))
    elif how == "grow":
        broken += data.draw(st.binary(min_size=1, max_size=40))
    elif how == "number":  # a length that claims anything
        place = data.draw(st.integers(0, min(len(broken) - 1, 100)))
        number = data.draw(
            st.sampled_from([b"\xff" * 8, b"\x7f\xff\xff\xff", b"\0" * 8, b"\x80\0\0\0"])
        )
        broken[place : place + len(number)] = number
    else:
        for _ in range(data.draw(st.integers(1, 6))):
            broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    decode_or_refuse(bytes(broken), mask, pipeline)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda s: str([f.name for f in s[0].filters]))
def test_every_truncation_is_refused(sample):
    pipeline, mask, raw = sample
    trailing = 1 if pipeline.filters and pipeline.filters[-1].id == 6 else 0  # a spare byte
    for length in range(len(raw) - trailing):
        assert decode_or_refuse(raw[:length], mask, pipeline) is None, length


def blosc2_frame(chunk):
    """Return a frame of one chunk whose header says the right lengths."""
    lengths = struct.pack("<III", 4 * CHUNK, 4 * CHUNK, max(len(chunk), 16))
    chunk = chunk[:4] + lengths + chunk[16:]
    header = b"\x9e\xa8b2frame\0\xd2" + struct.pack(">I", 97) + b"\xcf"
    header += struct.pack(">Q", 97 + len(chunk)) + b"\xa4\x12\0\x51\x03\xd3"
    header += struct.pack(">QcQ", 4 * CHUNK, b"\xd3", len(chunk))
    return header.ljust(97, b"\0") + chunk


def pipeline_with(id, cd=(), chunk=CHUNK):
    return Pipeline((Filter(id, FILTERS[id].name, cd),), np.dtype("i4"), chunk)


@pytest.mark.parametrize(
    ("id", "cd", "raw"),
    [
        (1, (4,), zlib.compress(bytes(10**7))),
        (32000, (), b"\x00\x00" + b"\xe0\xff\x00" * 10**4),
        (32004, (0,), struct.pack(">QI", 1 << 62, 1 << 30) + b"\0" * 20),
        (32004, (0,), struct.pack(">QII", 4 * CHUNK, 1 << 30, 0xFFFFFFFF)),
        (32004, (0,), struct.pack(">QII", 4 * CHUNK, 0, 4)),
        (32004, (0,), struct.pack(">QII", 4 * CHUNK, 1, 1) + b"\0"),
        (32015, (3,), b"\x28\xb5\x2f\xfd\xe0" + b"\xff" * 8 + b"\x01\0\0"),
        (32015, (3,), b"\x28\xb5\x2f\xfd\x00\x58\x01\0\0"),
        (32001, (), struct.pack("<BBBBIII", 2, 1, 0, 4, 0xFFFFFFFF, 65536, 16)),
        (32001, (), struct.pack("<BBBBIII", 2, 1, 2, 4, 4 * CHUNK, 65536, 0xFFFFFFF0)),
        (32008, (0, 3, 4, 0, 2), struct.pack(">QI", 1 << 62, 8192) + b"\0" * 20),
        (32008, (0, 3, 4, 0, 2), struct.pack(">QI", 4 * CHUNK, 0) + b"\0" * 20),
        (32008, (0, 3, 4, 0, 3), struct.pack(">QII", 4 * CHUNK, 8192, 1 << 31) + b"\0" * 20),
        (32026, (1,), b"\x9e\xa8b2frame\0" + b"\xff" * 60),
        (32026, (1,), blosc2_frame(b"\0" * 31 + b"\x40")),
        (32026, (1,), blosc2_frame(b"")),
        (6, (2, 0, CHUNK, 0, 4, 1, 0, 0), struct.pack("<IBQQ", 1 << 31, 8, 0, 0) + b"\0" * 500),
        (6, (2, 0, CHUNK, 0, 4, 1, 0, 0), struct.pack("<IBQQ", 31, 8, 0, 0) + b"\0" * 300),
    ],
)
def test_claims_are_not_believed(id, cd, raw):
    pipeline = pipeline_with(id, cd)
    if (reason := unsupported(pipeline)) is not None:
        pytest.skip(reason)
    with pytest.raises(CorruptFileError, match=rf"filter {id} \({FILTERS[id].name}\)"):
        decode_chunk(raw, 0, pipeline)


def test_a_changed_byte_fails_the_checksum():
    values = np.arange(CHUNK, dtype=np.int32)
    pipeline = pipeline_with(3)
    raw = bytearray(encode_chunk(values, pipeline))
    raw[17] ^= 4
    with pytest.raises(CorruptFileError, match=r"filter 3 \(fletcher32\).*the checksum is 0x"):
        decode_chunk(raw, 0, pipeline)
    same_bits(decode_chunk(raw[:-4], 1, pipeline)[:4], values[:4])  # the mask says there is none


def test_the_byte_swapped_checksum_of_hdf5_1_6_2_is_accepted():
    values = np.arange(CHUNK, dtype=np.int32)
    with memory_file() as file:
        dset = create(file, "i4", CHUNK, CHUNK, [FLETCHER])
        raw = bytearray(encode_chunk(values, pipeline_of(dset)))
        raw[-4:] = raw[-3], raw[-4], raw[-1], raw[-2]
        dset.id.write_direct_chunk((0,), bytes(raw))
        check_reading(dset)
        raw[-4:] = raw[-2:] + raw[-4:-2]
        with pytest.raises(CorruptFileError, match="checksum"):
            decode_chunk(raw, 0, pipeline_of(dset))


def test_wrong_length_without_filters():
    pipeline = Pipeline((), np.dtype("i4"), 4)
    for length in (0, 15, 17):
        with pytest.raises(CorruptFileError, match=f"a chunk of {length} bytes, not 16"):
            decode_chunk(bytes(length), 0, pipeline)
        with pytest.raises(CorruptFileError, match=f"a chunk of {length} bytes, not 16"):
            gather_chunk(bytes(length), 0, pipeline, [0], [1], [0], np.zeros(1, "i4"))


# ---------------------------------------------------------------- what callers may do wrong


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (np.zeros(5, "i4"), "not int32"),
        (np.zeros(4, "f4"), "not int32"),
        (np.zeros(8, "i4")[::2], "contiguous"),
        (np.frombuffer(bytes(16), "i4"), "writeable"),
    ],
)
def test_out_must_fit(out, message):
    with pytest.raises(ValueError, match=message):
        decode_chunk(bytes(16), 0, Pipeline((), np.dtype("i4"), 4), out)


@pytest.mark.parametrize(
    ("lo", "hi", "at"),
    [([0], [5], [0]), ([-1], [2], [0]), ([2], [1], [0]), ([0], [2], [3]), ([0], [1], [-1])],
)
def test_ranges_must_lie_inside(lo, hi, at):
    pipeline = Pipeline((Filter(2, "shuffle", (4,)),), np.dtype("i4"), 4)
    with pytest.raises(ValueError, match="ranges"):
        gather_chunk(bytes(16), 0, pipeline, lo, hi, at, np.zeros(4, "i4"))


def test_no_ranges_read_nothing():
    pipeline = Pipeline((Filter(1, "deflate", ()),), np.dtype("i4"), 4)
    out = np.array([5, -6, 7, 8], "i4")
    gather_chunk(b"broken", 0, pipeline, [], [], [], out)
    assert out.tolist() == [5, -6, 7, 8]


@pytest.mark.parametrize("values", [np.zeros(3, "i4"), np.zeros(4, "i8"), np.zeros(4, "f4")])
def test_encode_takes_whole_chunks_of_the_dtype(values):
    with pytest.raises(ValueError, match=r"a chunk is int32\(4,\), not"):
        encode_chunk(values, Pipeline((), np.dtype("i4"), 4))


def test_encode_takes_any_byte_order():
    pipeline = Pipeline((), np.dtype(">i4"), 3)
    for order in "<>":
        raw = encode_chunk(np.array([1, 2, 3], f"{order}i4"), pipeline)
        assert raw == bytes([0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3])


# ---------------------------------------------------------------- what is supported, and by what


@pytest.mark.parametrize(
    ("filter", "dtype", "reason"),
    [
        (Filter(4, "szip", (0, 8)), "i4", r"filter 4 \(szip\) has no decoder here"),
        (Filter(5, "nbit", ()), "i4", r"filter 5 \(nbit\) has no decoder here"),
        (Filter(2, "shuffle", ()), "i4", "shuffle has 0 parameters"),
        (Filter(2, "shuffle", (0,)), "i4", "shuffle of elements of no bytes"),
        (Filter(6, "scaleoffset", (2, 0)), "i4", "scaleoffset has 2 parameters"),
        (Filter(6, "scaleoffset", (2, 0, 9, 0, 4, 1, 0, 0)), "i4", "of another type"),
        (Filter(6, "scaleoffset", (2, 0, 8, 0, 4, 0, 0, 0)), "i4", "of another type"),
        (Filter(6, "scaleoffset", (2, 0, 8, 0, 4, 1, 1, 0)), "i4", "of another type"),
        (Filter(6, "scaleoffset", (1, 0, 8, 1, 4, 0, 0, 0)), "f4", "of type 1"),
        (Filter(6, "scaleoffset", (2, 33, 8, 0, 4, 1, 0, 0)), "i4", "factor 33"),
        (Filter(6, "scaleoffset", (0, 999, 8, 1, 4, 0, 0, 0)), "f4", "factor 999"),
        (Filter(32001, "blosc", (2, 2, 4, 32, 5, 1, 3)), "i4", "snappy|'codecs' extra"),
        (Filter(32008, "bitshuffle", (0, 3, 0, 8)), "i4", "bitshuffle with the parameters"),
        (Filter(32008, "bitshuffle", (0, 3, 4, 8, 9)), "i4", "bitshuffle with the compressor 9"),
        (Filter(32026, "blosc2", (1, 0, 4, 32, 5, 1, 1, 2)), "i4", "2 dimensions|'blosc2' extra"),
    ],
)
def test_why_a_pipeline_is_declined(filter, dtype, reason):
    pipeline = Pipeline((filter,), np.dtype(dtype), 8)
    found = unsupported(pipeline)
    assert found is not None
    assert re.search(reason, found)


def test_scaleoffset_needs_a_chunk_of_the_right_length():
    with memory_file() as file:
        so = pipeline_of(create(file, "i4", 8, 8, [INTEGER_SO])).filters[0]
    before = Filter(1, "deflate", (4,))
    reason = unsupported(Pipeline((before, so), np.dtype("i4"), 8))
    assert reason == "scaleoffset after a filter that changes the length"


def test_types_that_are_not_numpys_are_declined():
    with memory_file() as file:
        twelve_bits = h5py.h5t.STD_I16LE.copy()
        twelve_bits.set_precision(12)
        space = h5py.h5s.create_simple((4,))
        odd = h5py.Dataset(h5py.h5d.create(file.id, b"odd", twelve_bits, space))
        text = file.create_dataset("text", data=["a", "b"])
        pair = file.create_dataset("pair", (4,), np.dtype([("a", "i4"), ("b", "i4")]))
        for dset in (odd, text, pair):
            assert unsupported(pipeline_of(dset)) == "the stored type is none of numpy's"


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(("half", "whole"), [("f4", "c8"), ("f8", "c16")])
def test_complex_numbers_under_other_names(order, half, whole):
    pairs = np.dtype([("real", order + half), ("imag", order + half)])
    values = values_of("counts", whole, 20)
    with memory_file() as file:
        dset = file.create_dataset("x", (20,), pairs, chunks=(20,), shuffle=True)
        dset[...] = values.astype(order + whole).view(pairs)
        pipeline = pipeline_of(dset)
        assert pipeline.dtype == np.dtype(order + whole)
        same_bits(decode_chunk(dset.id.read_direct_chunk((0,))[1], 0, pipeline), values)


def test_pipeline_of_datasets_without_chunks():
    with memory_file() as file:
        assert pipeline_of(file.create_dataset("x", data=np.arange(5.0))) == Pipeline(
            (), np.dtype("f8"), 5
        )
        dset = create(file, ">i4", 5, 3, [SHUFFLE, DEFLATE])
        shuffle, deflate = Filter(2, "shuffle", (4,)), Filter(1, "deflate", (4,))
        assert pipeline_of(dset) == Pipeline((shuffle, deflate), np.dtype(">i4"), 3)


def test_without_the_extras(monkeypatch):
    """zlib of the standard library takes over; the others name the extra that brings them."""
    raw = encode_chunk(np.arange(8, dtype=np.int32), pipeline_with(1, (4,), 8))

    def only_standard(*names):
        return zlib if "zlib" in names else None

    monkeypatch.setattr(codecs, "find_library", only_standard)
    monkeypatch.setattr(filters, "find_library", only_standard)
    pipeline = pipeline_with(1, (4,), 8)
    assert unsupported(pipeline) is None
    assert decode_chunk(raw, 0, pipeline).tolist() == list(range(8))
    assert zlib.decompress(encode_chunk(np.arange(8, dtype=np.int32), pipeline)) == bytes(
        np.arange(8, dtype=np.int32)
    )
    for length in range(len(raw)):
        with pytest.raises(CorruptFileError, match=r"filter 1 \(deflate\)"):
            decode_chunk(raw[:length], 0, pipeline)
    bomb = zlib.compress(bytes(10**7))
    with pytest.raises(CorruptFileError, match="more than 32 bytes"):
        decode_chunk(bomb, 0, pipeline)
    assert unsupported(pipeline_with(32015)) == "zstd needs the 'codecs' extra"
    assert unsupported(pipeline_with(32004)) == "lz4 needs the 'codecs' extra"
    assert unsupported(pipeline_with(32001)) == "blosc needs the 'codecs' extra"
    assert unsupported(pipeline_with(32026)) == "blosc2 needs the 'blosc2' extra"
    reason = unsupported(pipeline_with(32008, (0, 3, 4, 0, 2)))
    assert reason == "bitshuffle with lz4 or zstd needs the 'codecs' extra"
    assert unsupported(pipeline_with(32008, (0, 3, 4, 0))) is None
    report = {name: (library, why) for name, library, _, why in codec_report()}
    assert report["deflate"][0] == "zlib"
    assert report["zstd"] == ("", "needs the 'codecs' extra")
    assert report["lzf"][0] == "numba"


def test_codec_report_has_every_filter():
    report = codec_report()
    assert [name for name, *_ in report] == [row.name for row in FILTERS.values()]
    assert all(why for *_, why in report)
    assert set(ENCODERS) < set(DECODERS) == set(FILTERS)


def test_an_unknown_filter_is_not_decoded():
    pipeline = Pipeline((Filter(4, "szip", ()),), np.dtype("i4"), 4)
    with pytest.raises(NotImplementedError, match=r"filter 4 \(szip\)"):
        decode_chunk(bytes(16), 0, pipeline)
    assert decode_chunk(bytes(16), 1, pipeline).tolist() == [0] * 4  # left out for this chunk
    with pytest.raises(NotImplementedError, match=r"filter 4 \(szip\)"):
        encode_chunk(np.zeros(4, "i4"), pipeline)


def test_importing_the_module_imports_no_compiler_and_no_codec():
    code = (
        "import sys, diskcsr.storage.filters\n"
        "print({'numba', 'numcodecs', 'deflate', 'imagecodecs', 'blosc2'} & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"


def test_threads_do_not_share_scratch_memory():
    pipeline = Pipeline(
        (Filter(2, "shuffle", (4,)), Filter(32000, "lzf", ()), Filter(3, "fletcher32", ())),
        np.dtype("i4"),
        400,
    )
    chunks = [np.arange(k, k + 400, dtype=np.int32) for k in range(8)]
    raws = [encode_chunk(chunk, pipeline) for chunk in chunks]
    wrong = []

    def work(k):
        for _ in range(10):
            if not np.array_equal(decode_chunk(raws[k], 0, pipeline), chunks[k]):
                wrong.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# ---------------------------------------------------------------- kernels and their twins

ranges_of = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)).map(sorted), max_size=4)


def placed(ranges):
    """Return ranges as arrays, each placed behind the one before, and how long they are in all."""
    lo, hi = (np.array([r[i] for r in ranges], np.int64) for i in (0, 1))
    at = np.concatenate([[0], np.cumsum(hi - lo)]).astype(np.int64)
    return lo, hi, at[:-1], int(at[-1])


@pytest.mark.parametrize("size", [2, 4, 8])
@quick
@given(ranges=ranges_of, seed=st.integers(0, 99))
def test_gather_planes(size, ranges, seed):
    planes = np.frombuffer(np.random.default_rng(seed).bytes(60 * size), np.uint8)
    lo, hi, at, total = placed(ranges)
    found, expected = np.zeros((2, total), f"u{size}")
    getattr(kernels, f"gather_planes_{size}")(planes, 60, lo, hi, at, found)
    naive.gather_planes(planes, 60, lo, hi, at, expected)
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_split_planes(size):
    values = np.frombuffer(np.random.default_rng(0).bytes(37 * size), f"u{size}")
    found, expected = np.zeros((2, 37 * size), np.uint8)
    kernels.split_planes(values, found)
    naive.split_planes(values, expected)
    assert found.tolist() == expected.tolist()
    assert naive.unpack_planes(found, size).tobytes() == values.tobytes()


@quick
@given(
    size=st.integers(1, 9),
    block=st.integers(1, 5).map(lambda n: 8 * n),
    stored=st.integers(0, 12).map(lambda n: 8 * n),
    extra=st.integers(0, 7),
)
def test_join_bit_planes(size, block, stored, extra):
    data = np.frombuffer(np.random.default_rng(stored).bytes(stored * size), np.uint8)
    found, expected = np.zeros((2, (stored + extra) * size), np.uint8)
    kernels.join_bit_planes(data, size, block, stored + extra, found)
    naive.join_bit_planes(data, size, block, stored + extra, expected)
    assert found.tolist() == expected.tolist()


@quick
@given(
    st.binary(max_size=1600)
    | st.integers(0, 1600).map(bytes)
    | st.integers(0, 1600).map(lambda n: b"\xff" * n)
)
def test_fletcher32(data):
    array = np.frombuffer(data, np.uint8) if data else np.empty(0, np.uint8)
    assert int(kernels.fletcher32(array)) == naive.fletcher32(data)


repetitive = st.lists(
    st.tuples(st.binary(min_size=1, max_size=40), st.integers(1, 30)), max_size=12
).map(lambda parts: b"".join(piece * n for piece, n in parts))


@quick
@given(repetitive)
def test_lzf_round_trip(data):
    array = np.frombuffer(data + b"!", np.uint8)
    packed = np.empty(array.size + array.size // 32 + 2, np.uint8)
    packed = packed[: kernels.lzf_compress(array, packed)]
    assert naive.lzf_decompress(packed, array.size) == array.tobytes()
    out = np.zeros_like(array)
    assert kernels.lzf_decompress(packed, out) == array.size
    assert out.tobytes() == array.tobytes()
    if array.size > 1:
        assert kernels.lzf_decompress(packed, out[:-1]) == kernels.TOO_LONG


def test_lzf_compress_never_exceeds_its_bound():
    for n in [1, 2, 31, 32, 33, 64, 65, 1000]:
        data = np.frombuffer(np.random.default_rng(n).bytes(n), np.uint8)
        guarded = np.full(n + n // 32 + 2 + 8, 0xAB, np.uint8)
        length = kernels.lzf_compress(data, guarded[:-8])
        assert length <= guarded.size - 8
        assert (guarded[-8:] == 0xAB).all()
        assert naive.lzf_decompress(guarded[:length], n) == data.tobytes()


@quick
@given(st.binary(min_size=1, max_size=60), st.integers(0, 300))
def test_lzf_of_any_bytes(data, room):
    guarded = np.full(room + 16, 0xAB, np.uint8)
    length = int(kernels.lzf_decompress(np.frombuffer(data, np.uint8), guarded[:room]))
    expected = naive.lzf_decompress(data, room)
    assert (guarded[room:] == 0xAB).all()
    assert (length < 0) == (expected is None)
    if expected is not None:
        assert guarded[:length].tobytes() == expected


@quick
@given(
    size=st.sampled_from([1, 2, 4, 8]),
    data=st.data(),
    ranges=ranges_of,
    spare=st.integers(0, 9),
)
def test_gather_integers(size, data, ranges, spare):
    bits = data.draw(st.integers(1, 8 * size - 1), "bits")
    rng = np.random.default_rng(bits)
    codes = rng.integers(0, 1 << bits, 60, dtype=np.uint64)
    codes[rng.random(60) < 0.2] = (1 << bits) - 1
    payload = np.zeros((60 * bits + 7) // 8 + spare, np.uint8)
    kernels.pack_codes(codes, np.uint64(bits), payload)
    expected_payload = np.zeros_like(payload)
    naive.pack_codes(codes, bits, expected_payload)
    assert payload.tolist() == expected_payload.tolist()
    assert naive.codes(payload, bits, 60) == codes.tolist()
    minimum = np.uint64(data.draw(st.sampled_from([0, 1, 1000, 2**63, 2**64 - 1, 2**64 - 9])))
    fill_code = np.uint64(data.draw(st.sampled_from([(1 << bits) - 1, 2**64 - 1])))
    lo, hi, at, total = placed(ranges)
    found, expected = np.zeros((2, total), f"u{size}")
    arguments = payload, np.uint64(bits), lo, hi, at, minimum, fill_code, np.uint64(5)
    kernels.gather_integers(*arguments, found)
    naive.gather_integers(*arguments, expected)
    assert found.tolist() == expected.tolist()


@quick
@given(
    dtype=st.sampled_from([np.float32, np.float64]),
    data=st.data(),
    ranges=ranges_of,
    spare=st.integers(0, 9),
)
def test_gather_floats(dtype, data, ranges, spare):
    bits = data.draw(st.integers(1, 8 * np.dtype(dtype).itemsize - 1), "bits")
    codes = np.random.default_rng(bits).integers(0, 1 << bits, 60, dtype=np.uint64)
    payload = np.zeros((60 * bits + 7) // 8 + spare, np.uint8)
    kernels.pack_codes(codes, np.uint64(bits), payload)
    minimum, scale = dtype(data.draw(st.sampled_from([0, -2.5, 1e6]))), dtype(10) ** dtype(2)
    fill_code = np.uint64(data.draw(st.sampled_from([(1 << bits) - 1, 2**64 - 1])))
    lo, hi, at, total = placed(ranges)
    found, expected = np.zeros((2, total), dtype)
    arguments = payload, np.uint64(bits), lo, hi, at, minimum, scale, fill_code, dtype(-1)
    kernels.gather_floats(*arguments, found)
    naive.gather_floats(*arguments, expected)
    assert found.tobytes() == expected.tobytes()


def test_scaleoffset_across_blocks():
    """More elements than the kernel unpacks at a time, and ranges across its seams."""
    n = 2 * 1024 + 100
    with memory_file() as file:
        for dtype in ("i4", "f4"):
            steps = [FLOAT_SO if dtype == "f4" else INTEGER_SO]
            dset = create(file, dtype, n, n, steps)
            dset[...] = values_of("counts", dtype, n)
            check_reading(dset)


def test_scale_is_a_power_of_ten():
    cd = (0, 2, 8, 1, 4, 0, 0, 1, struct.unpack("<I", struct.pack("<f", -1.5))[0])
    so = ScaleOffset(cd)
    assert so.scale() == np.float32(100)
    assert so.scalar(so.fill) == np.float32(-1.5)
    assert ScaleOffset((0, 0xFFFFFFFE, *cd[2:])).scale() == np.float32(0.01)


@pytest.mark.skipif(os.environ.get("NUMBA_DISABLE_JIT") == "1", reason="too slow uncompiled")
def test_the_bench_script_runs(monkeypatch, capsys):
    """bench/codecs.py on chunks of 256 elements; it stops where a decoder gives wrong bytes."""
    script = Path(__file__).resolve().parent.parent / "bench" / "codecs.py"
    spec = importlib.util.spec_from_file_location("bench_codecs", script)
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    monkeypatch.setattr(bench, "CHUNK", 256)
    monkeypatch.setattr(sys, "argv", ["codecs.py", "--chunks=2", "--repeats=1"])
    bench.main()
    table = capsys.readouterr().out
    for name in ("deflate", "lzf", "gzip-4 + shuffle", "scaleoffset + shuffle + gzip"):
        assert name in table
    with pytest.raises(SystemExit, match="wrong bytes"):
        bench.check(lambda packed, n, out: bytes(n), b"", b"abc", "a decoder")
