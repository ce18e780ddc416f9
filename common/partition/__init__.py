"""Measuring the cost of each block, and splitting the model into balanced stages."""
