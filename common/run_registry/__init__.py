"""The registry of runs in Redis: records, storage and connection."""
