"""A matrix on its way to a file: pure, without a file."""
