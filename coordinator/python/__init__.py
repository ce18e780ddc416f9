"""What `import sideways` offers: training, its result, and the trained model."""
