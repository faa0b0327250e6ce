"""The bytes of a file and their safety: opening, closing, locks, the rollback journal."""
