"""Data sets as they lie on the disk."""
