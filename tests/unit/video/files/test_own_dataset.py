"""Datasets of the user's own: any form of clip gives the frames of the file, in the order of files, and resumes."""

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest

from common.config.settings import Data
from common.errors import ConfigError, DataError
from coordinator.tools.check_data import check
from coordinator.video.batch import Batch
from coordinator.video.cache.key import key_of
from coordinator.video.decoder_pool.clip_player import ClipPlayer, Job
from coordinator.video.files.clip_frames import decode_clip
from coordinator.video.files.clips import Clip, collect
from coordinator.video.slots import Slots
from tests.support.settings import config_of
from tests.support.videos import frames_of, write_clip

LENGTHS = (9, 14, 5, 11, 7)

# a decoder of the user's own: raw frames, one file for all clips, and a dataset in each form
MINE = """
import numpy as np
from pathlib import Path
from torch.utils.data import IterableDataset

HERE = Path(__file__).parent
LENGTHS = {lengths}
RAW = {{number: np.load(HERE / f"{{number}}.npy") for number in range(len(LENGTHS))}}

def file(number):
    return HERE / f"{{number}}.mkv"

class Map:
    def __init__(self, form):
        self.form = form

    def __len__(self):
        return len(LENGTHS)

    def __getitem__(self, number):
        return self.form(number), number % 3

class Stream(IterableDataset):  # with a length, and a __getitem__ that it inherits and does not implement
    __init__, __len__ = Map.__init__, Map.__len__

    def __iter__(self):
        for number in range(len(LENGTHS)):
            yield self.form(number), number % 3

def paths(): return Map(file)
def texts(): return Map(lambda number: str(file(number)))
def contents(): return Map(lambda number: file(number).read_bytes())
def hugging_face(): return Map(lambda number: {{"path": None, "bytes": file(number).read_bytes()}})
def arrays(): return Map(RAW.__getitem__)
def channels_first(): return Map(lambda number: RAW[number].transpose(0, 3, 1, 2))
def lists(): return Map(lambda number: list(RAW[number]))
def generators(): return Map(lambda number: iter(RAW[number]))
def streamed(): return Stream(RAW.__getitem__)
ready = Map(RAW.__getitem__)
stated = contents()
stated.labels, stated.frames = [n % 3 for n in range(len(LENGTHS))], LENGTHS
"""
FORMS = ["paths", "texts", "contents", "hugging_face", "arrays", "channels_first", "lists", "generators", "ready"]


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mine.py beside clips without loss, as files and as arrays."""
    folder = tmp_path_factory.mktemp("mine")
    for number, frames in enumerate(LENGTHS):
        path = write_clip(folder / f"{number}.mkv", frames, (24, 20), seed=number, codec="ffv1")
        np.save(folder / f"{number}.npy", frames_of(path, short_side=20).transpose(0, 2, 3, 1))
    (folder / "list.txt").write_text("".join(f"{number}.mkv {number % 3}\n" for number in range(len(LENGTHS))))
    (folder / "mine.py").write_text(MINE.format(lengths=LENGTHS))
    return folder / "mine.py"


def data_of(train: str | Path, **changes: Any) -> Data:
    return Data(**{"train": train, "slots": 2, "size": 16, "resize": 20, "threads": 2, "flip": 0.5, **changes})


def own(mine: Path, name: str) -> str:
    return f"{mine}:{name}"


def play(clips: list[Clip], data: Data, ticks: int, start: Any = None) -> tuple[list[Any], Any]:
    """What slots play, and their places after that."""
    slots, batch, events = Slots(Job(clips, data, 0, train=True), start=start), Batch((2, 3, 16, 16)), []
    for _ in range(ticks):
        assert slots.fill(batch)
        events.append((batch.frames.tobytes(), batch.clips.tolist(), batch.labels.tolist()))
    places = slots.places()
    slots.close()
    return events, places


def frames(clip: Clip, data: Data, **part: Any) -> np.ndarray:
    return np.array([scaler(frame) for scaler, frame in decode_clip(clip, data, **part)])


def test_any_form_of_clip_gives_the_frames_of_the_file(mine: Path) -> None:
    expected = collect(data_of(mine.parent / "list.txt"), "train").clips
    for form in FORMS:
        data = data_of(own(mine, form), stride=2)
        clips = collect(data, "train")
        assert clips.classes == ["0", "1", "2"]
        assert [(clip.label, clip.frames) for clip in clips.clips] == [
            (clip.label, -(-clip.frames // 2)) for clip in expected
        ]
        for clip, file in zip(clips.clips, expected, strict=True):
            for part in ({}, {"skip": 2}, {"skip": 1, "limit": 3}, {"skip": 99}):
                assert np.array_equal(frames(clip, data, **part), frames(file, data, **part)), (form, part)


def test_slots_play_a_dataset_as_they_do_files_from_any_place(mine: Path) -> None:
    files = data_of(mine.parent / "list.txt", window=6)
    events, places = [], []
    for ticks in (17, 40):
        played, place = play(collect(files, "train").clips, files, ticks)
        events.append(played)
        places.append(place)
    data = data_of(own(mine, "contents"), window=6, threads=1)
    played, place = play(collect(data, "train").clips, data, 23, places[0])
    assert events[0] + played == events[1]
    assert place == places[1]


def test_an_iterable_is_played_in_its_own_order_and_resumed(mine: Path) -> None:
    data = data_of(own(mine, "streamed"))
    clips = collect(data, "train").clips
    assert [clip.frames for clip in clips] == list(LENGTHS)
    job = Job(clips, data, 0, train=True)
    assert [job.order().entry(number) for number in range(7)] == [*clips, *clips[:2]]
    whole = chunks_of(job, 0, 0, 7)
    assert [(clip, label) for clip, label, before, _ in whole if before == 0] == [(0, 0), (2, 2), (4, 1)]
    assert chunks_of(job, 2, 4, 2) == whole[4:6]
    with pytest.raises(ConfigError, match=r"leave data.balance out"):
        collect(data_of(own(mine, "streamed"), balance=True), "train")


def chunks_of(job: Job, entry: int, done: int, count: int) -> list[tuple[Any, ...]]:
    """Chunks of at most 4 frames that a slot plays."""
    room = np.zeros((4, 3, 16, 16), np.uint8)
    chunks = islice(ClipPlayer(job, lambda *error: None).chunks(entry, done, lambda: room), count)
    return [(*chunk[:3], room[: chunk.frames].tobytes()) for chunk in chunks]


def write(folder: Path, code: str) -> str:
    (folder / "mine.py").write_text("import numpy as np\n" + dedent(code))
    return f"{folder / 'mine.py'}:clips"


GOOD = "np.zeros((3, 20, 24, 3), np.uint8)"


def dataset(items: str, more: str = "") -> str:
    return f"""
class Clips:
    {more or "pass"}
    def __len__(self): return len(ITEMS)
    def __getitem__(self, n):
        item = ITEMS[n]
        return item() if callable(item) else item
def broken(): raise KeyError("no such row")
def ends():
    yield np.zeros((20, 24, 3), np.uint8)
    raise OSError("disk gone")
GOOD = {GOOD}
ITEMS = [{items}]
clips = Clips
"""


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("(GOOD.astype(float), 0)", r"float64 \[20, 24, 3\]: make frames uint8.*with values of 0 to 255"),
        ("(GOOD[..., :2], 0)", r"uint8 \[20, 24, 2\]: make frames uint8"),
        ("(GOOD[:0], 0)", "it has no frames: leave it out"),
        ("(iter([]), 0)", "it has no frames"),
        ("(ends(), 0)", r"OSError: disk gone \(mine.py, line 12\)"),
        ("broken", r"KeyError: 'no such row' \(mine.py, line 9\)"),
        ("lambda: exit(3)", "SystemExit: 3"),
        ("(b'nothing', 0)", "Invalid data"),
        ("(7, 0)", "it is a int: a clip is a path"),
        ("('missing.mp4', 0)", "No such file"),
    ],
)
def test_a_bad_item_is_left_out_with_a_reason(tmp_path: Path, item: str, message: str) -> None:
    source = write(tmp_path, dataset(f"(GOOD, 0), {item}, (GOOD, 1)"))
    clips = collect(data_of(source), "train")
    assert [clip.item and clip.item.number for clip in clips.clips] == [0, 2]
    (warning,) = [text for text in clips.warnings(0) if "left out" in text]
    assert re.search(f"(clips\\[1\\]|missing.mp4) cannot be read and is left out: .*{message}", warning), warning
    with pytest.raises(DataError, match=r"none of the 1 videos.*the first: "):
        collect(data_of(write(tmp_path, dataset(item))), "train")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (dataset("(GOOD, 3)", "classes = ['a', 'b']"), r"clips\[0\]: its label is 3, but there are 2 classes.*a, b"),
        (dataset("(GOOD, 'c')", "classes = ['a', 'b']"), r"clips\[0\]: its label is 'c'"),
        (dataset("(GOOD, 0), (GOOD, -1)"), r"clips\[1\]: its label is -1"),
        (dataset("(GOOD, 1e9)"), r"its label is 1000000000.0, but must be the number or the name"),
        (dataset("GOOD"), "its label is None.*An item is a pair"),
        (dataset(""), "has no items"),
        (dataset("(GOOD, 0)", "labels, frames = [0], [2.5]"), r"clips\[0\]: its entry in `frames` is 2.5"),
    ],
)
def test_a_label_that_is_no_class_is_an_error(tmp_path: Path, code: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        collect(data_of(write(tmp_path, code)), "train")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("other = 1", "has no function clips"),
        ("1 / 0", "does not load: ZeroDivisionError"),
        ("def clips(root): pass", "cannot be called.*must take no arguments"),
        ("def clips(): return 5", "is a int: a dataset has __len__ and __getitem__, or __iter__"),
        ("def clips(): raise SystemExit(3)", "calls sys.exit"),
        (dataset("(GOOD, 0)", "labels, frames = [0, 1], [3]"), "has 1 items, but 2 labels"),
    ],
)
def test_what_is_no_dataset_is_refused(tmp_path: Path, code: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        collect(data_of(write(tmp_path, code)), "train")


def test_labels_may_be_names_or_tensors_and_items_mappings(tmp_path: Path) -> None:
    items = "{'video': GOOD, 'label': np.int64(1)}, {'clip': GOOD, 'label': 'dog'}"
    clips = collect(data_of(write(tmp_path, dataset(items, "classes = ['cat', 'dog']"))), "train")
    assert (clips.classes, [clip.label for clip in clips.clips]) == (["cat", "dog"], [1, 1])
    clips = collect(data_of(write(tmp_path, dataset("(GOOD, 'b'), (GOOD, 'a')"))), "train")
    assert (clips.classes, [clip.label for clip in clips.clips]) == (["a", "b"], [1, 0])
    methods = "def frames(self): pass\n    def labels(self): pass"
    clips = collect(data_of(write(tmp_path, dataset("GOOD, GOOD", methods))), "train", labelled=False)
    assert len(clips.clips) == 2


def test_a_dataset_that_states_labels_and_frames_is_not_read_before_the_run(tmp_path: Path) -> None:
    more = "labels, frames = [1, 0], [3, 4]"
    clips = collect(data_of(write(tmp_path, dataset("broken, broken", more))), "train").clips
    assert [(clip.label, clip.frames) for clip in clips] == [(1, 3), (0, 4)]
    errors: list[Any] = []
    data = data_of(f"{tmp_path / 'mine.py'}:clips")
    player = ClipPlayer(Job(clips, data, 0, train=True), lambda *error: errors.append(error))
    with pytest.raises(DataError, match=r"none of the 2 clips can be decoded: .*KeyError: 'no such row' \(mine.py"):
        next(player.chunks(0, 0, lambda: np.zeros((4, 3, 16, 16), np.uint8)))


def test_errors_while_playing_are_counted_and_name_the_item(tmp_path: Path) -> None:
    items = "(lambda: (ends(), 0)), (lambda: (GOOD.astype(float), 0))"
    data = data_of(write(tmp_path, dataset(items, "labels, frames = [0, 0], [3, 3]")))
    errors: list[tuple[str, str]] = []
    player = ClipPlayer(Job(collect(data, "train").clips, data, 0, False), lambda *error: errors.append(error))
    room = np.zeros((4, 3, 16, 16), np.uint8)
    assert [chunk.frames for slot in (0, 1) for chunk in player.chunks(slot, 0, lambda: room)] == [1]
    assert [kind for kind, _ in errors] == ["broken", "skipped"]
    assert "clips[0]: OSError: disk gone (mine.py, line 12)" in errors[0][1]
    assert "clips[1]: a frame of it is float64" in errors[1][1]


def test_check_reads_a_dataset(mine: Path) -> None:
    (survey,) = check(config_of(mine.parent, data__train=own(mine, "generators")))
    assert [finding.frames for finding in survey.findings] == list(LENGTHS)
    assert not survey.bad


def test_the_cache_keeps_an_item_only_if_it_is_known_what_it_is(tmp_path: Path, mine: Path) -> None:
    def key(source: str, cache: str) -> bytes | None:
        data = data_of(source, cache=cache)
        return key_of(collect(data, "train").clips[0], data)

    assert key(own(mine, "arrays"), "memory") not in (None, key(own(mine, "lists"), "memory"))
    assert key(own(mine, "arrays"), str(tmp_path)) is None
    versions = [write(tmp_path / name, dataset("(GOOD, 0)", f"version = {n}")) for name, n in made(tmp_path)]
    keys = {key(source, str(tmp_path)) for source in versions}
    assert len(keys) == 2
    assert None not in keys


def made(folder: Path) -> Iterator[tuple[str, int]]:
    for number, name in enumerate("ab"):
        (folder / name).mkdir()
        yield name, number


def test_arrays_have_no_timestamps(mine: Path) -> None:
    with pytest.raises(DataError, match=r"use data.stride instead of data.fps"):
        collect(data_of(own(mine, "arrays"), fps=12.5), "train")
    for form in ("contents", "stated"):
        clips = collect(data_of(own(mine, form), fps=12.5), "train").clips
        assert [clip.frames for clip in clips] == [round(frames / 2) for frames in LENGTHS]


def test_grey_frames_of_16_bits_keep_them(tmp_path: Path) -> None:
    source = write(tmp_path, dataset("((np.arange(2 * 16 * 16) * 100).astype(np.uint16).reshape(2, 16, 16), 0)"))
    data = data_of(source, resize=16, channels=1, bits=16)
    (clip,) = collect(data, "train").clips
    found = frames(clip, data)
    assert found.dtype == np.uint16
    assert np.array_equal(found.ravel(), np.arange(512) * 100)


@pytest.mark.parametrize(
    ("task", "items", "classes", "labels"),
    [
        ("regress", "(GOOD, 0.5), (GOOD, np.float32(-2))", ["0"], [(0.5,), (-2.0,)]),
        ("regress", "(GOOD, (0.5, 1)), (GOOD, np.array([3, 4]))", ["0", "1"], [(0.5, 1.0), (3.0, 4.0)]),
        ("multilabel", "(GOOD, ('run', 'jump')), (GOOD, ['sit']), (GOOD, ())", ["jump", "run", "sit"], None),
    ],
)
def test_labels_of_other_tasks(tmp_path: Path, task: Any, items: str, classes: list[str], labels: Any) -> None:
    source = write(tmp_path, dataset(items))
    found = collect(data_of(source), "train", task=task)
    assert found.classes == classes
    expected = labels or [(1.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.0, 0.0, 0.0)]
    assert [clip.label for clip in found.clips] == expected
    with pytest.raises(DataError, match=r"clips\[0\]: its label is None, but must be numbers"):
        collect(data_of(write(tmp_path, dataset("GOOD"))), "train", task=task)
    with pytest.raises(DataError, match=r'but data\.labels_of = "frames" needs a list'):
        collect(data_of(write(tmp_path, dataset("(GOOD, 1)")), labels_of="frames"), "train", task=task)


def test_several_classes_have_the_datasets_names(tmp_path: Path) -> None:
    classes = 'classes = ["walk", "run", "sit"]'
    source = write(tmp_path, dataset("(GOOD, [1, 2]), (GOOD, ['walk'])", classes))
    found = collect(data_of(source), "train", task="multilabel")
    assert found.classes == ["walk", "run", "sit"]
    assert [clip.label for clip in found.clips] == [(0.0, 1.0, 1.0), (1.0, 0.0, 0.0)]
    with pytest.raises(DataError, match=r"clips\[0\]: its label has 3, but there are 3 classes, numbered from 0"):
        collect(data_of(write(tmp_path, dataset("(GOOD, [3])", classes))), "train", task="multilabel")
    for vector in ("np.array([0, 1, 1])", "np.array([0.0, 1.0])"):
        with pytest.raises(DataError, match=r"clips\[0\]: its label is \[.*, each once, not a 0 or 1 for every class"):
            collect(data_of(write(tmp_path, dataset(f"(GOOD, {vector})"))), "train", task="multilabel")
