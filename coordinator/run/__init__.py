"""One training run, from the coordinator's side."""
