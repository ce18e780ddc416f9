"""Finding runs, and publishing one in Redis."""
