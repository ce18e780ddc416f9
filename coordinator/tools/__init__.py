"""Commands that need no running training."""
