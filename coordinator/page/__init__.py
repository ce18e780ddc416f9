"""A live web page of the run, read-only, from what the coordinator has in memory."""
