"""Reports of a stage to the coordinator, and its metrics for Prometheus."""
