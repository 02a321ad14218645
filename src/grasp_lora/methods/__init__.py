"""What is compared: each method is one entry. Only this room sees the config."""
