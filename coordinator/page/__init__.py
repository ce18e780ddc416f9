"""A live, read-only web page of the run, served from the coordinator's memory."""
