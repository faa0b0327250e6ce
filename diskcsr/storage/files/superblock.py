"""A look at how an HDF5 file begins, before it is opened for writing."""

from ...errors import CorruptFileError
from ..journal.journal import Journal

__all__ = ["check_superblock"]

#: How a file begins, or goes on after its user block; how much of that is looked at.
_SIGNATURE, _SUPERBLOCK = b"\x89HDF\r\n\x1a\n", 64
_NO_ADDRESS = b"\xff" * 8


def check_superblock(journal: Journal) -> None:
    """Refuse a file whose superblock leads to records of another driver than HDF5 will use.

    HDF5 2.0.0 reads them, writes them to where they cannot be, and crashes after that has failed.

    Raises
    ------
    CorruptFileError
        When there is such an address.
    """
    start = 0
    while start + _SUPERBLOCK <= journal.size:
        raw = journal.pread(start, _SUPERBLOCK)
        if raw.startswith(_SIGNATURE):
            version, sizes = raw[8], raw[13:15]
            at = 48 + 4 * version
            if version > 1 or sizes != b"\x08\x08" or raw[at : at + 8] == _NO_ADDRESS:
                return
            raise CorruptFileError(
                f"{journal.path}: its superblock leads to records of another driver of HDF5, at "
                f"{int.from_bytes(raw[at : at + 8], 'little')}: not opened for writing"
            )
        start = 2 * start or 512  # a user block may come first
