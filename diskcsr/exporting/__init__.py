"""Files of other kinds that a matrix is stored as, block by block."""
