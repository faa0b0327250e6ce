"""From memory to a file: new groups and their datasets."""
