"""HDF5's filters, undone and applied outside HDF5."""
