"""Every setting of a run, validated once, and the file they are read from."""
