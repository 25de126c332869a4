"""The loop and what it writes: shared by all methods, and boring."""
