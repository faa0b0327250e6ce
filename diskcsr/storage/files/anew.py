"""The file object through which HDF5 reads a file that it has open already, as it was earlier."""

import io

from ...machine.interrupts import protected

__all__ = ["ReadAnew"]


class ReadAnew(io.FileIO):
    """A file that is read; HDF5 lets go of it when it closes its own."""

    @protected
    def __repr__(self) -> str:
        return str(self.name)  # what h5py takes as the name of the file

    @protected
    def __del__(self) -> None:
        self.close()
