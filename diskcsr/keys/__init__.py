"""What a key asks for, and which elements answer it: pure, without a file."""
