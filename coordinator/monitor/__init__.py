"""What the stages report, and all that watch a run."""
