"""Do diskcsr's arrays behave as scipy's: scipy's own tests, and other people's functions."""
