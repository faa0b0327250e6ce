"""From anything to a file: what can be stored, how it gets there, and how an array changes."""
