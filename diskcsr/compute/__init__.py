"""What is computed of a stored matrix: block by block, in bounded memory."""
