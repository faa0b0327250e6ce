"""HDF5 files opened to read and to write: one committed state, and changes as a whole."""
