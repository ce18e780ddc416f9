"""CSV files as people and spreadsheets write them: with a header, divided by commas, semicolons or tabs."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from common.errors import DataError
from coordinator.video.files.listing import lines_of


def header_of(line: str) -> list[str]:
    """The names of the columns in the first line of a file; one name if it is no header of several."""
    try:
        names = next(csv.reader([line], delimiter=_delimiter(line), skipinitialspace=True), [])
    except csv.Error:  # a cell of more than 128 KiB
        return [line]
    return [name.strip() for name in names]


class Rows(NamedTuple):
    """The content of a file, stripped.

    Attributes:
        where: file and line of the header, for messages.
        names: of the columns.
        rows: file and line of each, and its cells by column.
    """

    where: str
    names: list[str]
    rows: Sequence[tuple[str, Mapping[str, str]]]


def read_rows(file: Path, example: str) -> Rows:
    """Read a file.

    `example`: of a header, for the message about an empty file.

    Raises:
        DataError: it cannot be read, is no CSV file, or has a row of more or fewer cells than the header.
    """
    lines = list(lines_of(file))
    if not lines:
        raise DataError(f"{file} is empty: it needs a header, such as {example}")
    texts = [line for _, line in lines]
    try:
        header, *rows = csv.reader(texts, delimiter=_delimiter(texts[0]), skipinitialspace=True, strict=True)
    except csv.Error as error:
        raise DataError(f"{file} is not a valid CSV file: {error}. Is a quotation mark left open?") from error
    names, found = [name.strip() for name in header], []
    for (number, _), cells in zip(lines[1:], rows, strict=False):
        if len(cells) != len(names):
            raise DataError(
                f"{file}, line {number}: {len(cells)} values, but the header has {len(names)} columns: give every "
                "column a value, an empty one if there is no label"
            )
        found.append((f"{file}, line {number}", dict(zip(names, (cell.strip() for cell in cells), strict=True))))
    return Rows(f"{file}, line {lines[0][0]}", names, found)


def _delimiter(header: str) -> str:
    return max(",;\t", key=header.count)
