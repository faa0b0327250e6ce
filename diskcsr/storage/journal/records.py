"""What is in a rollback journal: a head and records, all of them with checksums.

The journal of ``m.h5`` is ``m.h5-journal`` beside it; all numbers are little-endian. Each record
holds bytes of the file as they were at the last commit. The head says how long the file was then,
and which part of the journal counts: how many records there are, and where the last one ends.

The order of writing tells damage apart from what was cut short. Records are written first, then the
head that counts them, and only then are the bytes changed that they saved; the head is so short
that it is written at once. So whatever a killed writer leaves behind the counted records was
never needed, and a counted record that is not whole is damage: undoing with the others alone would
leave a torn file.

A transaction is over, the journal *cold*, when its head consists of zeros. A journal gets its
name only with such a head in it, so that one that is too short for a head is damaged, too.
"""

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from ...errors import RollbackError

__all__ = [
    "COLD",
    "HEAD",
    "MAX_RECORD",
    "PAGE",
    "RECORD",
    "SAMPLE",
    "Head",
    "Record",
    "find_records",
    "is_cold",
    "journal_path",
    "new_head",
    "pack_record",
    "sample_offsets",
]

#: Bytes are saved in multiples of a page, at most so many in one record.
PAGE = 4096
MAX_RECORD = 1 << 20

_MAGIC, _VERSION, _FIRST_VERSION = b"dcsr-jnl", 2, 1
_SAMPLES, SAMPLE = 8, 512
#: magic, version, page
_BEGIN = struct.Struct("<8sII")
#: and then: size of the file at the commit, nonce, checksums of samples, end of the counted records
#: in the journal, how many they are, checksum. Not longer than the sector of a disk.
HEAD = struct.Struct(f"<8sIIQQ{4 * _SAMPLES}sQII")
#: That of version 0.1.0 of this package, which did not count the records.
_FIRST_HEADER = struct.Struct(f"<8sIIQQ{4 * _SAMPLES}sI")
#: offset in the file, length, checksum; the old bytes follow
RECORD = struct.Struct("<QII")
#: What a checksum is made of besides the old bytes: nonce, number of the record, offset, length. So
#: a record of an earlier transaction, or in the place of another, is not taken for this one.
_KEY = struct.Struct("<QIQI")
_FIRST_KEY = struct.Struct("<QQI")

#: The head of a journal when no transaction is under way.
COLD = bytes(HEAD.size)


class Record(NamedTuple):
    """Bytes of the file as they were: their place there, and in the journal."""

    offset: int
    length: int
    position: int


@dataclass(frozen=True)
class Head:
    """The head of a hot journal.

    Attributes
    ----------
    size : int
        Of the file at the last commit.
    nonce : int
        A random number, of this transaction alone.
    samples : bytes
        Checksums of some parts of the file.
    end, records : int
        Where the records that count end in the journal, and how many they are.
    version : int
        Of the journal's format. That of 0.1.0 has neither `end` nor `records`.
    """

    size: int
    nonce: int
    samples: bytes
    end: int = HEAD.size
    records: int = 0
    version: int = _VERSION

    def pack(self) -> bytes:
        about = (self.size, self.nonce, self.samples, self.end, self.records)
        body = HEAD.pack(_MAGIC, _VERSION, PAGE, *about, 0)[:-4]
        return body + zlib.crc32(body).to_bytes(4, "little")

    def counting(self, nbytes: int, records: int) -> "Head":
        """Return the head that counts so many bytes of so many records more."""
        return replace(self, end=self.end + nbytes, records=self.records + records)

    @classmethod
    def read(cls, journal: int, path: str) -> "Head | None":
        """Return the head of a hot journal, None of a cold one.

        Parameters
        ----------
        journal : int
            Its descriptor. Nobody must be writing to it.
        path : str
            Of the file it belongs to, for messages.

        Raises
        ------
        RollbackError
            When it is neither.
        """
        raw = os.pread(journal, HEAD.size, 0)
        if is_cold(raw):
            return None
        head = cls._parse(raw)
        if head is not None:
            return head
        if len(raw) < HEAD.size:
            raise _damaged(path, f"it ends within its head, after {len(raw)} bytes")
        why = "its head does not match its checksum"
        magic, version, _ = _BEGIN.unpack_from(raw)
        if magic == _MAGIC and version > _VERSION:
            why += f", or is of version {version}, which only a later version of diskcsr reads"
        raise _damaged(path, why, _what_holds(journal, raw))

    @classmethod
    def _parse(cls, raw: bytes) -> "Head | None":
        """Return a head, None when it does not match its checksum or is of another format."""
        for version, layout in ((_VERSION, HEAD), (_FIRST_VERSION, _FIRST_HEADER)):
            packed = raw[: layout.size]
            if len(packed) < layout.size or packed[:16] != _BEGIN.pack(_MAGIC, version, PAGE):
                continue
            _, _, _, size, nonce, samples, *counts, checksum = layout.unpack(packed)
            if checksum == zlib.crc32(packed[:-4]):
                end, records = counts or (layout.size, 0)
                return cls(size, nonce, samples, end, records, version)
        return None


def is_cold(raw: bytes) -> bool:
    """Whether a journal that begins so has nothing to undo.

    That of 0.1.0 has a shorter head, with what is left of records behind it.
    """
    return bool(raw) and not any(raw[: _FIRST_HEADER.size])


def journal_path(path: Any) -> str:
    """Where the journal of a file lies: beside the file itself, whatever links lead there."""
    return os.path.realpath(os.fsdecode(path)) + "-journal"


def new_head(data: int, size: int) -> Head:
    """Describe the open file `data`, of `size` bytes, as it is now."""
    samples = b"".join(
        zlib.crc32(os.pread(data, SAMPLE, offset)).to_bytes(4, "little")
        for offset in sample_offsets(size)
    )
    return Head(size, int.from_bytes(os.urandom(8), "little"), samples)


def sample_offsets(size: int) -> list[int]:
    """Where the samples of a file of this size lie."""
    return [size * i // _SAMPLES for i in range(_SAMPLES)]


def pack_record(nonce: int, number: int, offset: int, old: bytes) -> list[bytes]:
    """Return the parts of the record that saves the bytes `old` at `offset`."""
    checksum = _checksum(_KEY.pack(nonce, number, offset, len(old)), old)
    return [RECORD.pack(offset, len(old), checksum), old]


def _checksum(key: bytes, old: bytes) -> int:
    return zlib.crc32(old, zlib.crc32(key))


def find_records(journal: int, head: Head, path: str) -> list[Record]:
    """Return the records of a journal that count.

    Raises
    ------
    RollbackError
        When one of them is not as it was written.
    """
    if head.version == _FIRST_VERSION:
        # The first that does not match was not finished, or is left from an earlier transaction.
        return list(_whole_records(journal, head, _FIRST_HEADER.size, 1 << 62))
    records = list(_whole_records(journal, head, HEAD.size, head.records))
    end = records[-1].position + records[-1].length if records else HEAD.size
    if (len(records), end) != (head.records, head.end):
        why = f"its record {len(records) + 1} is not as it was written"
        raise _damaged(path, why, _known(head, len(records)))
    return records


def _whole_records(journal: int, head: Head, position: int, most: int) -> Iterator[Record]:
    """Yield records from a position on, up to the first that does not match its checksum."""
    for number in range(most):
        raw = os.pread(journal, RECORD.size, position)
        if len(raw) < RECORD.size:
            return
        offset, length, checksum = RECORD.unpack(raw)
        position += RECORD.size
        if length > MAX_RECORD or offset + length > head.size:
            return
        old = os.pread(journal, length, position)
        key = _KEY.pack(head.nonce, number, offset, length)
        if head.version == _FIRST_VERSION:
            key = _FIRST_KEY.pack(head.nonce, offset, length)
        if len(old) < length or _checksum(key, old) != checksum:
            return
        yield Record(offset, length, position)
        position += length


# ----------------------------------------------------------------------------------------- damage


def _what_holds(journal: int, raw: bytes) -> str:
    """Say what a journal tells whose head cannot be trusted."""
    _, _, _, size, nonce, samples, end, records, _ = HEAD.unpack(raw)
    head = Head(size, nonce, samples, end, records)
    whole = len(list(_whole_records(journal, head, HEAD.size, records)))
    return f"{_known(head, whole)}, if that can be believed"


def _known(head: Head, whole: int) -> str:
    return (
        f"; it says that the file had {head.size} bytes before and that there are "
        f"{head.records} records of what it overwrote, of which the first {whole} are whole"
    )


def _damaged(path: str, why: str, known: str = "") -> RollbackError:
    return RollbackError(
        f"{path}: a write to it was interrupted and must be undone before it can be read, but the "
        f"journal with what it held before, {journal_path(path)}, is damaged: {why}{known}. "
        "Nothing was changed now. The file may hold half of a change: keep both as they are, copy "
        "them before you try anything, and put back the journal, or the file, from a backup or "
        "snapshot"
    )
