"""Traces of a run: recorded by its processes, written in Chrome's format."""
