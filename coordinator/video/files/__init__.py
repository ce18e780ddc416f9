"""Data sets on disk: their formats, their clips, and the order in which clips are played."""
