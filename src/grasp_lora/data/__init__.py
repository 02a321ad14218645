"""Data sets: official files, or the hub, become prepared folders of splits."""
