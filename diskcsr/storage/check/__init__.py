"""What is wrong with a file, how it is put right, and what is said of it."""
