"""Live sources over a real local connection: newest frame wins, drops are counted, a broken source is reopened."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest

from common.config.run_file import parse
from common.config.settings import Data
from common.errors import DataError
from coordinator.video.batch import Batch
from coordinator.video.datasets import Datasets
from coordinator.video.live import Live, newest_frames
from coordinator.video.slots import Slots
from tests.support.camera import Camera
from tests.support.videos import write_clip
from tests.support.waiting import wait_until

_PATIENT = 30.0


@contextmanager
def playing(
    *cameras: Camera | str,
    slots: int = 1,
    patience: float = _PATIENT,
    start: Any = None,
    hurried: Callable[[], bool] = lambda: False,
    **data: Any,
) -> Iterator[tuple[Live, Batch]]:
    """A live stream from cameras or URLs, and a batch to fill. All are closed at the end."""
    sources = [camera if isinstance(camera, str) else camera.url for camera in cameras]
    settings = Data(sources=sources, slots=slots, channels=1, **{"size": 16, "source_timeout": 2, **data})
    stream = Live(settings, 0, patience, start=start, hurried=hurried)
    try:
        yield stream, Batch((slots, 1, *settings.shape))
    finally:
        stream.close()
        for camera in cameras:
            if isinstance(camera, Camera):
                camera.close()


def fill(stream: Live, batch: Batch) -> list[float]:
    """Fill the batch. Returns the mean brightness of each slot's frame."""
    assert stream.fill(batch)
    return [float(row.mean()) for row in batch.frames]


def test_the_newest_frame_wins_and_the_others_are_counted() -> None:
    camera = Camera(300, wait=0.03)  # FFmpeg probes about 20 frames before it returns the first
    with playing(camera) as (stream, batch):
        source = stream._sources[0]
        wait_until(lambda: source._count > 2, _PATIENT)  # as while the stages are built
        first, count = fill(stream, batch)[0], source._count_taken
        assert stream.errors.dropped == 0
        wait_until(lambda: source._count >= count + 8, _PATIENT)
        later = fill(stream, batch)[0]
        dropped = stream.errors.dropped
        assert source._count_taken == count + dropped + 1
        assert dropped >= 7
        assert round((later - first) / 4) % 40 == (dropped + 1) % 40


def test_a_faster_pipeline_waits_for_the_next_frame() -> None:
    camera, polled = Camera(400, wait=0.05), []
    with playing(camera) as (stream, batch):
        stream._meanwhile = lambda: polled.append(1)
        levels = [fill(stream, batch)[0] for _ in range(8)]
        assert all(0 < (b - a) % 160 < 80 for a, b in pairwise(levels))  # 40 levels, 4 apart, in a cycle
        assert polled


def test_slots_share_the_sources_and_cut_them_differently() -> None:
    with playing(Camera(60, 20, 0.05, 0), Camera(60, 140, 0.05, 0), slots=4, resize=40) as (stream, batch):
        levels = fill(stream, batch)
        assert levels[0] == pytest.approx(levels[2], abs=3)
        assert levels[1] > levels[0] + 60
        assert batch.clips.tolist() == [0, 1, 2, 3]
        assert len({(slot._augment.top, slot._augment.left) for slot in stream._slots if slot._augment}) > 1


def test_frames_that_are_not_square() -> None:
    with playing(Camera(60, 20, 0.05, 0), size=(16, 20)) as (stream, batch):
        assert fill(stream, batch)[0] > 0
        assert batch.frames.shape == (1, 1, 16, 20)


def test_a_source_that_reconnects_starts_a_new_clip() -> None:
    camera = Camera(30, wait=0.005)
    with playing(camera, slots=2) as (stream, batch):
        ids = []
        while stream.errors.reconnects < 3:
            fill(stream, batch)
            ids.append(batch.clips.tolist())
        fill(stream, batch)
        ids.append(batch.clips.tolist())
        assert all(pair[0] % 2 == 0 and pair[1] == pair[0] + 1 for pair in ids)
        assert sorted({pair[0] for pair in ids})[:2] == [0, 2]
        assert camera.served >= 4
        places = stream.places()
        assert places[0][0] == ids[-1][0]
        assert any("127.0.0.1" in reason for reason in stream.errors.reasons)
        assert not any("secret" in reason for reason in stream.errors.reasons)
    again = Camera(30, wait=0.005)
    with playing(again, slots=2, start=places) as (stream, batch):
        fill(stream, batch)
        assert batch.clips.tolist() == [places[0][0] + 2, places[1][0] + 2]  # never used before


def test_a_silent_source_repeats_its_last_frame_while_others_play() -> None:
    silent = Camera(60, 20, 0.02)
    with playing(silent, Camera(400, 80, 0.02), slots=2, source_timeout=1) as (stream, batch):
        fill(stream, batch)
        silent.hold()
        frozen = [fill(stream, batch) for _ in range(60)][-10:]
        assert len({levels[0] for levels in frozen}) == 1
        assert len({levels[1] for levels in frozen}) > 1
        silent.go()


def test_a_source_that_never_connects_is_black_while_others_play_and_is_told() -> None:
    told: list[str] = []
    with playing("http://127.0.0.1:9/none", Camera(100, 80, 0.02), slots=2) as (stream, batch):
        stream.errors.warn = told.append
        levels = fill(stream, batch)
        assert len(set(told)) == 1
        assert "http://127.0.0.1:9/none delivers no frames (" in told[0]
        assert "its slots repeat its last picture, or are black" in told[0]
        assert levels[0] == 0
        assert levels[1] > 60


def test_a_stopping_run_does_not_wait_for_sources() -> None:
    off = Camera(5)
    off.on = False
    calls: list[bool] = []

    def hurried() -> bool:
        calls.append(True)
        return len(calls) > 3  # the wait begins before the request to stop

    with playing(off, slots=1, patience=30.0, hurried=hurried) as (stream, batch):
        start = time.monotonic()
        assert fill(stream, batch) == [0]
        assert time.monotonic() - start < 10


def test_when_no_source_gives_a_frame_the_error_names_them() -> None:
    off = Camera(5)
    off.on = False
    with (
        playing("nowhere.mp4", off, slots=2, patience=1.0) as (stream, batch),
        pytest.raises(DataError, match=r"no source has delivered a frame for 1 s: nowhere.mp4: No such.*127\.0\.0\.1"),
    ):
        fill(stream, batch)


def test_a_silent_peer_blocks_neither_reading_nor_closing(tmp_path: Path) -> None:
    """It accepts the connection and sends nothing: opening times out, and closing ends the thread."""
    silent = Camera(5)
    silent.hold()
    with playing(silent, patience=0.5, source_timeout=0.5) as (stream, batch):
        with pytest.raises(DataError, match="no source"):
            fill(stream, batch)
        stream.close()
        wait_until(lambda: not stream._sources[0].thread.is_alive(), _PATIENT)


def test_the_data_settings_select_the_kind_of_stream(tmp_path: Path) -> None:
    write_clip(tmp_path / "x.mp4", 5)
    data = {"sources": ["gone.mp4"], "slots": 1, "size": 16, "val": str(tmp_path)}
    config = parse({"task": "autoencode", "ticks": 1, "stages": 1, "data": data}, "test")
    datasets = Datasets(config, lambda text: None, lambda: None)
    for stream, kind in ((datasets.open_training(None, config), Live), (datasets.open_evaluation(), Slots)):
        stream.close()
        assert isinstance(stream, kind)


def test_a_model_that_was_trained_at_a_stride_sees_every_so_manyth_frame(tmp_path: Path) -> None:
    camera = Camera(200, wait=0.02)  # a cycle of 40 levels, 4 apart
    data = Data(train=tmp_path, stride=8, channels=1, size=16, source_timeout=2)
    with closing(newest_frames(camera.url, data, _PATIENT)) as frames:
        levels = [float(frame.mean()) for _, frame in islice(frames, 5)]
    camera.close()
    assert all(round((later - levels[0]) / 4) % 8 == 0 for later in levels)


def test_a_source_that_hangs_while_it_is_opened_is_waited_for_once() -> None:
    hanging = Camera(5)
    hanging.hold()
    with playing(hanging, Camera(400, 80, 0.02), slots=2, patience=2, source_timeout=60) as (stream, batch):
        assert fill(stream, batch)[0] == 0
        start = time.monotonic()
        for _ in range(4):
            fill(stream, batch)
        assert time.monotonic() - start < 3 * 2, "not every tick waits for it"
        hanging.go()
