"""What the computer gives: memory, threads, a terminal, and the settings that say how much."""
