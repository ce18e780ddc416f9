"""Processes that decode clips into shared memory."""
