"""Checkpoints: saving them, and resuming a run from one."""
