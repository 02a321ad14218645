"""The workspace of a run: its stages, its folder, what is in it, and what its stages share."""
