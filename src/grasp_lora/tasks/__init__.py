"""Tasks: rows of files become examples of a prompt and what should follow it."""
