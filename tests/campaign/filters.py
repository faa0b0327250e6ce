"""Chunks whose filters lie: payloads cut, exchanged, replaced by bombs, or with lying headers."""

import bz2
import contextlib
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from .sources import Source

__all__ = ["apply", "draw"]

#: Bytes that a bomb unfolds to.
_BOMB = 1 << 28
_EXTREMES = [0, 1, 2, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]


def draw(rng: np.random.Generator, source: Source) -> list[list[Any]]:
    """Draw one to three steps ``[name, array, chunk, number, number]``."""
    names = list(_STEPS)
    return [
        [
            names[int(rng.integers(len(names)))],
            str(rng.choice(source.names)),
            int(rng.integers(8)),
            int(rng.integers(1 << 16)),
            int(rng.integers(1 << 16)),
        ]
        for _ in range(int(rng.choice([1, 1, 2, 3])))
    ]


def apply(path: Path, source: Source, damage: list[list[Any]]) -> None:
    """Change chunks of a file, where there are such chunks."""
    with h5py.File(path, "r+", libver=source.libver) as file:
        for name, array, chunk, a, b in damage:
            dset = file["X"].get(array)
            if not isinstance(dset, h5py.Dataset) or dset.chunks is None:
                continue
            count = dset.id.get_num_chunks()
            if count and dset.id.get_create_plist().get_nfilters():
                with contextlib.suppress(OSError, ValueError, RuntimeError):  # that HDF5 refuses
                    _STEPS[name](dset, chunk % count, a, b)


def _raw(dset: h5py.Dataset, number: int) -> tuple[int, bytearray, tuple[int, ...]]:
    """Return the filter mask, the stored bytes and the place of a chunk."""
    where = dset.id.get_chunk_info(number).chunk_offset
    mask, raw = dset.id.read_direct_chunk(where)
    return mask, bytearray(raw), where


def _write(dset: h5py.Dataset, where: tuple[int, ...], raw: bytes, mask: int = 0) -> None:
    if raw:
        dset.id.write_direct_chunk(where, bytes(raw), filter_mask=mask)


def _flip(dset: h5py.Dataset, number: int, a: int, b: int) -> None:
    mask, raw, where = _raw(dset, number)
    raw[a % len(raw)] ^= 1 << b % 8
    _write(dset, where, raw, mask)


def _cut(dset: h5py.Dataset, number: int, a: int, b: int) -> None:
    mask, raw, where = _raw(dset, number)
    _write(dset, where, raw[: max(a % len(raw), 1)], mask)


def _longer(dset: h5py.Dataset, number: int, a: int, b: int) -> None:
    mask, raw, where = _raw(dset, number)
    _write(dset, where, raw + np.random.default_rng(a).bytes(1 + b % 40), mask)


def _other(dset: h5py.Dataset, number: int, a: int, b: int) -> None:
    """The bytes of another chunk, the last of which is shorter than it seems."""
    mask, raw, _ = _raw(dset, a % dset.id.get_num_chunks())
    _write(dset, _raw(dset, number)[2], raw, mask)


def _header(dset: h5py.Dataset, number: int, a: int, b: int) -> None:
    """An extreme number somewhere in the first 24 bytes, where most codecs keep lengths."""
    mask, raw, where = _raw(dset, number)
    width = (1, 2, 4, 4)[a % 4]
    at = (a >> 4) % 24
    value = _EXTREMES[b % len(_EXTREMES)] % 256**width
    order = "little" if b & 256 else "big"
    raw[at : at + width] = value.to_bytes(width, order)
    _write(dset, where, raw, mask)


def _mask(dset: h5py.Dataset, number: int, a: int, b: int) -> None:
    """Filters that are said to have been left out."""
    _, raw, where = _raw(dset, number)
    _write(dset, where, raw, mask=(1, 2, 3, 4, 7, 2**31, 2**32 - 1)[a % 7])


def _random(dset: h5py.Dataset, number: int, a: int, b: int) -> None:
    mask, _, where = _raw(dset, number)
    _write(dset, where, np.random.default_rng(a).bytes(1 + b % 300), mask)


def _zeros(dset: h5py.Dataset, number: int, a: int, b: int) -> None:
    mask, raw, where = _raw(dset, number)
    _write(dset, where, bytes(len(raw)), mask)


def _bomb(dset: h5py.Dataset, number: int, a: int, b: int) -> None:
    """Few bytes that unfold to a quarter of a gigabyte, in whatever the last filter undoes."""
    mask, _, where = _raw(dset, number)
    properties = dset.id.get_create_plist()
    last = properties.get_filter(properties.get_nfilters() - 1)[0]
    make = _BOMBS.get(last)
    if make is not None:
        _write(dset, where, make(a), mask)


def _deflate_bomb(a: int) -> bytes:
    packer = zlib.compressobj(9)
    zeros = bytes(1 << 22)
    parts = [packer.compress(zeros) for _ in range(_BOMB // len(zeros))]
    return b"".join([*parts, packer.flush()])


def _zstd_bomb(a: int) -> bytes:
    """A frame of run-length blocks, RFC 8878: each of four bytes stands for 128 KiB."""
    size = _BOMB if a % 2 else 1 << 40  # the second is said and not kept
    header = struct.pack("<IBBQ", 0xFD2FB528, 0b11000000, 0x58, size)
    blocks = _BOMB >> 17
    block = ((1 << 17) << 3 | 1 << 1).to_bytes(3, "little") + b"\0"
    last = ((1 << 17) << 3 | 1 << 1 | 1).to_bytes(3, "little") + b"\0"
    return header + block * (blocks - 1) + last


def _lz4_bomb(a: int) -> bytes:
    """As HDF5's lz4 filter frames it: the whole length, a block's length, then blocks."""
    length = _BOMB if a % 2 else 1 << 50
    run = b"\x1f\0\1\0" + b"\xff" * ((_BOMB >> 8) // 255) + b"\0" + b"\x50" + bytes(5)
    return struct.pack(">QII", length, min(length, 1 << 30), len(run)) + run


def _lzf_bomb(a: int) -> bytes:
    return b"\0\0" + b"\xe0\xff\0" * (_BOMB >> 14)


def _blosc_bomb(a: int) -> bytes:
    """A header of blosc that claims a lot, of blocks that are not there."""
    flags = (0x01, 0x21, 0x81, 0x02)[a % 4]
    return struct.pack("<BBBBIII", 2, 1, flags, 4, 0x7FFFFFF0, 1 << 18, 64) + bytes(48)


_BOMBS: dict[int, Callable[[int], bytes]] = {
    1: _deflate_bomb,
    307: lambda a: bz2.compress(bytes(_BOMB)),
    32000: _lzf_bomb,
    32001: _blosc_bomb,
    32004: _lz4_bomb,
    32008: lambda a: struct.pack(">QI", _BOMB, 1 << 20) + bytes(64),
    32015: _zstd_bomb,
    32026: lambda a: struct.pack("<BBBBIII", 5, 1, 0x31, 4, 0x7FFFFFF0, 1 << 18, 64) + bytes(48),
}


def _parameters(dset: h5py.Dataset, number: int, a: int, b: int) -> None:
    """Other client data, or another filter, in the pipeline of a dataset with the same chunks."""
    chunks = [_raw(dset, n) for n in range(dset.id.get_num_chunks())]
    old, group = dset.id.get_create_plist(), dset.parent
    name, stored, space = dset.name.rpartition("/")[2], dset.id.get_type(), dset.id.get_space()
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk(old.get_chunk())
    count = old.get_nfilters()
    for n in range(count):
        id, _, data, _ = old.get_filter(n)
        data = list(data)
        if n == a % count and data:
            data[b % len(data)] = _EXTREMES[(a >> 4) % len(_EXTREMES)]
        elif n == a % count:
            data = [_EXTREMES[b % len(_EXTREMES)]] * (b % 5)
        properties.set_filter(id, h5py.h5z.FLAG_OPTIONAL, tuple(data))
    del group[name]
    where = h5py.h5d.create(group.id, name.encode(), stored, space, properties)
    new = h5py.Dataset(where)
    for mask, raw, place in chunks:
        _write(new, place, raw, mask)


_STEPS: dict[str, Callable[[h5py.Dataset, int, int, int], None]] = {
    "flip": _flip,
    "cut": _cut,
    "longer": _longer,
    "other": _other,
    "header": _header,
    "mask": _mask,
    "random": _random,
    "zeros": _zeros,
    "bomb": _bomb,
    "parameters": _parameters,
}
