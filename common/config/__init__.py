"""The settings of a run, and the run file they are read from."""
