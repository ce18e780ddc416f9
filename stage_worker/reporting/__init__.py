"""What a stage reports to the coordinator and to Prometheus."""
