"""Files of labels for the test videos, of each task."""

import csv
from pathlib import Path

import numpy as np

SEVERAL, NUMBERS = "several.csv", "numbers.csv"  # of the training clips
FRAMES = "frames.csv"  # a class for segments of them, with gaps
EMPTY = 4  # every fourth label is missing


def write_labels(root: Path, names: list[str]) -> None:
    """Write the tables of labels of clips into `root`. `names`: the clips."""
    random = np.random.default_rng(0)
    several = [[name, *random.integers(0, 2, 3)] for name in names]
    numbers = [[name, *random.normal(size=3).round(3)] for name in names]
    for rows in (several, numbers):
        for row in rows[EMPTY - 1 :: EMPTY]:
            row[1:] = [""] * 3
    spans = [(0, 0, 2), (1, 3, 5)]  # every clip has 5 frames at least
    frames = [[name, *ends, "xyz"[(number + more) % 3]] for number, name in enumerate(names) for more, *ends in spans]
    write_table(root / FRAMES, ["path", "start", "end", "label"], frames)
    write_table(root / SEVERAL, ["path", "red", "green", "blue"], several)
    write_table(root / NUMBERS, ["path", "x", "y", "z"], numbers)


def write_table(file: Path, header: list[str], rows: list[list[object]]) -> Path:
    """Write a CSV file."""
    with open(file, "w", newline="") as opened:
        csv.writer(opened).writerows([header, *rows])
    return file
