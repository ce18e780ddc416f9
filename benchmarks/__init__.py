"""Benchmarks: `make bench`. Ratios within one run, medians of several rounds."""
