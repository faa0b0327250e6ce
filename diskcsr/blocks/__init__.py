"""Whole lines of a matrix in memory, and what walks over them."""
