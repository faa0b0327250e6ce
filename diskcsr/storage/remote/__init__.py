"""Files that a server has: which bytes to ask for, and how they come."""
