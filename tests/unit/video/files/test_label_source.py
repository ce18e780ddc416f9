"""Where a data set's labels come from."""

from pathlib import Path
from typing import Any

import pytest

from common.config.settings import Data, TaskName
from common.errors import ConfigError, DataError
from common.rule.label_form import LabelForm
from coordinator.video.files.clips import Clips, collect
from tests.support.videos import write_clip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips a/1.mp4 and b/2.mp4, of 6 frames."""
    folder = tmp_path_factory.mktemp("labelled")
    for name in ("a/1.mp4", "b/2.mp4"):
        write_clip(folder / "clips" / name, 6)
    return folder


def found(root: Path, task: TaskName, classes: list[str] | None = None, **data: Any) -> Clips:
    return collect(Data(**{"train": root / "clips", **data}), "train", classes=classes, task=task)


def listed(root: Path, text: str) -> dict[str, Any]:
    (root / "list.txt").write_text(text)
    return {"train": root / "list.txt", "videos": root / "clips"}


def table(root: Path, text: str) -> dict[str, Any]:
    (root / "labels.csv").write_text(text)
    return {"train_labels": root / "labels.csv"}


def test_a_list_has_several_classes_or_numbers_in_one_word(root: Path) -> None:
    clips = found(root, "multilabel", **listed(root, "a/1.mp4 run,jump\nb/2.mp4 -\n"))
    assert (clips.classes, clips.form) == (["jump", "run"], LabelForm(2))
    assert [clip.label for clip in clips.clips] == [(1.0, 1.0), (0.0, 0.0)]
    clips = found(root, "regress", **listed(root, "a/1.mp4 -0.5,2\nb/2.mp4 1,0\n"))
    assert (clips.classes, [clip.label for clip in clips.clips]) == (["0", "1"], [(-0.5, 2.0), (1.0, 0.0)])
    with pytest.raises(DataError, match=r"list\.txt, line 2: 1 of 2 values"):
        found(root, "regress", **listed(root, "a/1.mp4 1,0\nb/2.mp4 1\n"))


def test_a_table_labels_clips_in_any_layout(root: Path) -> None:
    clips = found(root, "regress", **table(root, "path,x\nb/2.mp4,0.5\na/1.mp4,\nc/9.mp4,3\n"))
    assert (clips.classes, clips.form, clips.clips[1].label) == (["x"], LabelForm(1), (0.5,))
    assert any("1 lines of" in note for note in clips.notes)
    clips = found(root, "classify", **table(root, "path,label\na/1.mp4,run\nb/2.mp4,run\n"))
    assert (clips.classes, [clip.label for clip in clips.clips]) == (["run"], [0, 0])


def test_labels_must_be_those_of_the_training_clips(root: Path) -> None:
    with pytest.raises(DataError, match="the columns x are not those of the training clips, x, y"):
        found(root, "regress", ["x", "y"], **table(root, "path,x\nb/2.mp4,0.5\na/1.mp4,1\n"))
    for columns in ("jump,run", "cat,dog"):
        with pytest.raises(
            DataError, match=f"columns {columns.replace(',', ', ')} are not those .* run, jump: .* order"
        ):
            found(root, "multilabel", ["run", "jump"], **table(root, f"path,{columns}\nb/2.mp4,0,1\na/1.mp4,1,0\n"))
    with pytest.raises(DataError, match=r"line 3: the class 'walk' is not one of the 1 of the training clips: run"):
        found(root, "classify", ["run"], **table(root, "path,label\na/1.mp4,run\nb/2.mp4,walk\n"))


def test_missing_labels_are_an_error(root: Path) -> None:
    with pytest.raises(DataError, match=r"1 of 2 clips have no line, the first: b/2\.mp4"):
        found(root, "regress", **table(root, "path,x\na/1.mp4,1\n"))
    with pytest.raises(DataError, match=r"line 3: a/1\.mp4 has a label already"):
        found(root, "regress", **table(root, "path,x\na/1.mp4,1\na/1.mp4,2\n"))
    with pytest.raises(ConfigError, match=r"folders name one class for each clip: set data\.train_labels"):
        found(root, "regress")
