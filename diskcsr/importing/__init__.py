"""Files of other kinds and matrices of other shapes: what they hold, piece by piece."""
