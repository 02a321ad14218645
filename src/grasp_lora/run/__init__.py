"""A run: its stages, its folder, and what is in it."""
