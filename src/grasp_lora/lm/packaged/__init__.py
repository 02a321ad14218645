"""Models that installed packages carry, converted once."""
