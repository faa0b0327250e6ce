"""From the file to memory: which reader serves a dataset, and what it may be trusted with."""
