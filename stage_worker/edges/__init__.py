"""The ends of an edge between two stages, and what carries it."""
