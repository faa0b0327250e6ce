"""Files of other kinds and matrices of other shapes: what they hold, part by part."""
