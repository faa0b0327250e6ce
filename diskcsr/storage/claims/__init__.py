"""What a file says of itself, compared with its bytes before HDF5 or we believe it."""
