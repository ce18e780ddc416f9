"""Experiment trackers that a run reports to: Weights & Biases, MLflow."""
