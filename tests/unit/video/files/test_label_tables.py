"""Labels in CSV files."""

from pathlib import Path

import pytest

from common.errors import DataError
from coordinator.video.files.label_tables import read_table, typed, vocabulary_of
from coordinator.video.files.labels import Vocabulary


def labels_of(file: Path, task: str, text: str, of_frames: bool = False) -> tuple[list[str], list[object]]:
    file.write_text(text)
    table = read_table(file, of_frames, with_path=not of_frames)
    values = [row.values for row in table.rows]
    vocabulary = Vocabulary(task, vocabulary_of(task, table.columns, values))  # type: ignore[arg-type]
    return list(vocabulary.names), [typed(value, table.columns, vocabulary) for value in values]


def test_each_task_has_its_tables(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    assert labels_of(file, "classify", "path,label\na,run\nb,\nc,jump\n") == (["jump", "run"], [1, -1, 0])
    assert labels_of(file, "classify", "path,label\na,07\nb,2\n")[1] == [7, 2]
    several = ["jump", "run"], [(0.0, 1.0), (1.0, 1.0), (0.0, 0.0)]
    assert labels_of(file, "multilabel", "path,labels\na,run\nb,run;jump\nc,-\n") == several
    assert labels_of(file, "multilabel", "jump, run, path\n0,1,a\n1,1,b\n0,0,c\n") == several
    names, values = labels_of(file, "regress", "path,x,y\na,0.5,-2\n\nb,,\n")
    assert (names, values[0]) == (["x", "y"], (0.5, -2.0))
    assert str(values[1]) == "(nan, nan)"


@pytest.mark.parametrize(
    ("task", "text", "message"),
    [
        ("regress", "", "is empty: it needs a header, such as path,label or path,x,y"),
        ("regress", "clip,x\na,1\n", "line 1: the header clip, x does not fit"),
        ("regress", "path\na\n", "line 1: the header path does not fit"),
        ("regress", "path,x,x\na,1,2\n", "expected different names"),
        ("regress", "path,x,y\na,1,2\nb,1\n", "line 3: 2 values, but the header has 3 columns"),
        ("regress", "path,x,y\na,1,\n", r"line 2: 1 of 2 values \(x, y\): give all of them, or none"),
        ("regress", "path,x,y\na,1,left\n", "line 2: 1, left are not all numbers"),
        ("regress", "path,x,y\n\na,1,nan\n", "line 3: y is nan, which is no number to learn"),
        ("multilabel", "path,x,y\na,1,0.5\n", "line 2: y is 0.5, but must be 1 if the class applies, else 0"),
        ("classify", "path,x,y\na,1,0\n", "needs one column with the class, but the labels have x, y"),
        (
            "classify",
            "path,label\na,1700000000\n",
            "the label 1700000000 is too large: numeric labels are 0, 1, … up to",
        ),
        ("classify", f"path,label\na,{'9' * 5000}\n", "the label 9+… is too large"),
        ("classify", "path,label\na,\n", "line 2: no clip or frame has a label"),
        ("classify", 'path,label\na,"b\n', "is not a valid CSV file"),
    ],
)
def test_a_bad_table_is_an_error_that_names_the_line(tmp_path: Path, task: str, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        labels_of(tmp_path / "labels.csv", task, text)
    assert "labels.csv" in str(error.value) or "needs one column" in str(error.value)
