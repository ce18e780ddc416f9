"""Reads the video, feeds the pipeline, watches it."""
