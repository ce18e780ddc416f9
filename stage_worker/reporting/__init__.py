"""What a stage tells the coordinator and Prometheus."""
