"""Runs in Redis: their records, and where they are stored."""
