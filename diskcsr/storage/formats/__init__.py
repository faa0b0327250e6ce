"""The on-disk conventions: which group is a sparse matrix, and what it says of itself."""
