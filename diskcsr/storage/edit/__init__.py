"""Matrices that change where they lie, and matrices over the files of others."""
