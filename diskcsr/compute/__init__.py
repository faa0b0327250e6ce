"""Arithmetic on stored matrices: folds over their blocks, in bounded memory."""
