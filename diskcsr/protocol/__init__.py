"""What the classes of arrays on disk are made of: what they show, and how they are read."""
