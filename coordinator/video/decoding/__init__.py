"""Decode video files into frames of a given size and rate."""
