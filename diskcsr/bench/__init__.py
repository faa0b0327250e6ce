"""Measure diskcsr and its peers: ``python -m diskcsr.bench``."""
