"""The run files of examples/paper: each finds clips, classes and split of a tiny data set of the official layout."""

from collections.abc import Callable
from pathlib import Path

import pytest

from common.config.run_file import load
from common.models import build
from common.partition.model_check import check_model
from coordinator.video.files.clips import collect
from tests.support.videos import write_moving

PAPER = Path(__file__).parents[3] / "examples/paper"
CLASSES = ["brush_hair", "run"]


def write_ucf101(root: Path) -> None:
    names = [f"{name}/v_{name}_g0{group}_c01.avi" for name in CLASSES for group in (1, 2)]
    put(root / "UCF-101", *names)
    splits = put_text(root / "ucfTrainTestlist/classInd.txt", "1 brush_hair\r\n2 run\r\n")
    put_text(splits / "trainlist01.txt", f"{names[0]} 1\r\n{names[2]} 2\r\n")
    put_text(splits / "testlist01.txt", f"{names[1]}\r\n{names[3]}\r\n")


def write_hmdb51(root: Path) -> None:
    for name in CLASSES:
        put(root / "hmdb51", f"{name}/a.avi", f"{name}/b.avi", f"{name}/c.avi")
        lines = "a.avi 1 \nb.avi 2 \nc.avi 0 \n"
        put_text(root / f"testTrainMulti_7030_splits/{name}_test_split1.txt", lines)


def write_cater(root: Path) -> None:
    names = [f"CATER_new_00000{number}.avi" for number in range(4)]
    put(root / "all_actions/videos", *names)
    lists = root / "all_actions/lists/localize"
    put_text(lists / "train.txt", f"{names[0]} 35\n{names[1]} 7\n")
    put_text(lists / "val.txt", f"{names[2]} 7\n{names[3]} 35\n")


def put(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_moving(root / name, 20, "mpeg4", (320, 240))


def put_text(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path.parent


@pytest.mark.parametrize(
    ("name", "write", "classes"), [("ucf101", write_ucf101, 2), ("hmdb51", write_hmdb51, 2), ("cater", write_cater, 36)]
)
def test_a_run_file_finds_its_data_and_its_model_takes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, write: Callable[[Path], None], classes: int
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path)
    config = load(PAPER / f"{name}.toml", ["data.slots=2", "model_args.width=8"])
    train = collect(config.data, "train")
    val = collect(config.data, "val", classes=train.classes)
    assert (len(train.clips), len(val.clips), len(train.classes)) == (2, 2, classes)
    assert not train.bad
    assert not {clip.path for clip in train.clips} & {clip.path for clip in val.clips}
    model = build(config, classes)
    assert len(model) == config.stages == 8
    check_model(model, config, classes)


def test_every_run_file_there_is_checked() -> None:
    assert {path.stem for path in PAPER.glob("*.toml")} == {"ucf101", "hmdb51", "cater"}
