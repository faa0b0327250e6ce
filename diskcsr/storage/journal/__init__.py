"""The rollback journal: what is in it, how it is written, and how a file is put back by it."""
