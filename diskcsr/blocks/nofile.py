"""What contents have for a file when they are in none."""

import threading
from typing import Any

import numpy as np

from ..axis import Axis

__all__ = ["NoFile"]


class NoFile:
    """Stands for the `Source` of contents all of which are in memory: there is nothing to read."""

    where, path, remote, closed = "a matrix in memory", None, None, False
    filename = name = ""

    def __init__(self, axis: Axis, shape: tuple[int, int], dtype: np.dtype) -> None:
        self.axis, self.shape, self.dtype = axis, shape, dtype
        self.lock = threading.RLock()

    def watch(self, array: Any) -> None:
        """Do nothing: no other handle and no other process changes it."""

    def close(self) -> None:
        """Do nothing: there is no file."""

    def check_open(self) -> None:
        """Do nothing: memory is always open."""
