"""Files of other kinds that a matrix is stored as, piece by piece."""
