"""What is computed from a matrix that is read block by block."""
