"""What is known and left: findings that are no news, each with the HDF5 release it was seen on.

The campaign counts them, and does not fail for them. Whoever mends one takes its row away.
"""

import re
from dataclasses import dataclass

__all__ = ["LEFTOVERS", "is_known"]


@dataclass(frozen=True)
class Leftover:
    """One fault: a pattern of its signatures, the release, and what it is."""

    signature: str
    hdf5: str
    why: str


LEFTOVERS = [
    Leftover(
        r"crash: SIG(SEGV|ABRT|BUS) .*, (mode r\+|change)",
        "2.0.0",
        "While a file is open for writing, HDF5 walks damaged structures that plain h5py does not "
        "happen to touch.",
    ),
]


def is_known(signature: str) -> bool:
    """Whether a finding is on the list."""
    return any(re.fullmatch(one.signature, signature) for one in LEFTOVERS)
