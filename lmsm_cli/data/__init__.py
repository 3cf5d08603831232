"""Data: read it, fetch it, make it imbalanced, batch it."""
