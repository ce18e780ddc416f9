"""What each step of reading video adds to decoding: µs of processor time a frame, in one process.

    python benchmarks/reading_steps.py --json

PyAV alone, a file after the other; 16 clips in turn, 64 frames of each held at a time; converting to RGB; cropping and
flipping into the ring; copying from the ring into batches. Each is measured with those before it, by turns, in so many
rounds; the figure is the median of what it adds.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.stream import SLOTS, _folders, _setting, decode  # noqa: E402
from common.config.settings import Data  # noqa: E402
from coordinator.video.decoding.augment import draw  # noqa: E402
from coordinator.video.decoding.clip_writer import ClipWriter  # noqa: E402
from coordinator.video.decoding.pictures import DecodedPictures  # noqa: E402
from coordinator.video.files.clip_frames import decode_clip  # noqa: E402
from coordinator.video.files.clips import Clip  # noqa: E402

CHUNK = 64
NAMES = {"msr_action3d": "actions", "drones": "infra_red"}
Turn = Callable[[int], int]  # of a slot: returns how many frames it has read; 0 once its clip has ended


def main() -> None:
    """Measure all folders and print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the figures as JSON on the last line")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clips", type=int, default=48, help="at most so many of each folder")
    arguments = parser.parse_args()
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        figures = {
            NAMES.get(root.name, root.name): steps(root, arguments.clips, arguments.rounds)
            for root in _folders(Path(folder))
        }
    for name, found in figures.items():
        print(name, "  ".join(f"{step} {micros}" for step, micros in found.items()))
    if arguments.json:
        print(json.dumps(figures))


def steps(root: Path, count: int, rounds: int) -> dict[str, float]:
    """PyAV's time, and what each step adds to that of the steps before it, in µs a frame."""
    clips, data, _ = _setting(root, 1, None)
    clips = clips[:count]
    reader = Reader(data)
    ways = {
        "pyav": partial(alone, clips),
        "turns": partial(in_turn, clips, reader.decode),
        "conversion": partial(in_turn, clips, reader.convert),
        "cropping": partial(in_turn, clips, reader.crop),
        "copying": partial(in_turn, clips, reader.copy),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):  # the first warms up
        for name, play in ways.items():
            start = time.process_time()
            frames = play()
            times[name].append((time.process_time() - start) / frames * 1e6)
    before = dict(zip(ways, [None, *ways], strict=False))
    return {
        name: round(median(_added(times[name], times[other] if other else None)[1:]), 1)
        for name, other in before.items()
    }


def _added(times: list[float], others: list[float] | None) -> list[float]:
    return times if others is None else [one - other for one, other in zip(times, others, strict=True)]


def alone(clips: list[Clip]) -> int:
    """PyAV. Returns the number of frames."""
    return decode([clip.path for clip in clips], 1)[0]


def in_turn(clips: list[Clip], begin: Callable[[Clip, int], Turn]) -> int:
    """A chunk of each of 16 clips in turn, and of the next clip once one has ended. Returns the number of frames."""
    waiting, total = iter(clips), 0
    playing = {slot: begin(clip, slot) for slot, clip in enumerate(islice(waiting, SLOTS))}
    while playing:
        for slot, turn in list(playing.items()):
            if read := turn(slot):
                total += read
            elif (clip := next(waiting, None)) is not None:
                playing[slot] = begin(clip, slot)
            else:
                del playing[slot]
    return total


class Reader:
    """The steps, each with those before it."""

    def __init__(self, data: Data) -> None:
        self._data = data
        self._held: list[object] = [None] * SLOTS
        self._ring = np.zeros((SLOTS, CHUNK, data.channels, *data.shape), np.uint8)
        self._batch = np.zeros((SLOTS, data.channels, *data.shape), np.uint8)

    def decode(self, clip: Clip, slot: int) -> Turn:
        """Decode a chunk, and hold its frames until the slot's next."""
        frames = decode_clip(clip, self._data)

        def turn(slot: int) -> int:
            self._held[slot] = chunk = list(islice(frames, CHUNK))
            return len(chunk)

        return turn

    def convert(self, clip: Clip, slot: int) -> Turn:
        """Decode and convert it."""
        source = DecodedPictures(decode_clip(clip, self._data), nullcontext())

        def turn(slot: int) -> int:
            read = 0
            while read < CHUNK and (pictures := source.take(CHUNK - read)):
                read += len(pictures)
            return read

        return turn

    def crop(self, clip: Clip, slot: int) -> Turn:
        """Decode, convert and crop it into the ring."""
        source = DecodedPictures(decode_clip(clip, self._data), nullcontext())
        writer = ClipWriter(partial(draw, data=self._data, random=np.random.default_rng(slot)), source)
        return lambda slot: writer.write(self._ring[slot])

    def copy(self, clip: Clip, slot: int) -> Turn:
        """And copy it from the ring, a frame of every slot at a time."""
        crop = self.crop(clip, slot)

        def turn(slot: int) -> int:
            read = crop(slot)
            rows = self._ring.reshape(-1, *self._ring.shape[2:])
            for first in range(0, read, SLOTS):
                places = slot * CHUNK + np.arange(first, min(first + SLOTS, read))
                np.take(rows, places, axis=0, out=self._batch[: len(places)], mode="clip")
            return read

        return turn


if __name__ == "__main__":
    main()
