"""Decode video files into frames of the wanted size and rate."""
