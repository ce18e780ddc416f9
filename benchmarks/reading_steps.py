"""What each step of reading video adds to decoding: µs of processor time a frame, in one process.

    python benchmarks/reading_steps.py --json

PyAV alone, a file after the other; 16 clips in turn, 64 frames of each held at a time; converting to RGB; cropping and
flipping into the ring, from which they are played. Each is measured with those before it, by turns, in so many rounds;
the figure is the median of what it adds. Then what keeping the frames in data.cache adds to all, in memory and in a
folder, what playing them from memory takes instead, and what nobody can save who keeps them: the kernel's time for
writing as many bytes to new memory (memfd) or to a new file, with one call a frame.

Processor time depends less on what else the machine does than frames a second do. That of the kernel's threads which
write a folder to the disk is not in it.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
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
from common.shared_memory.memfd import memory_file  # noqa: E402
from coordinator.video.cache.cached_pictures import CachedPictures, RecordedPictures  # noqa: E402
from coordinator.video.cache.frame_cache import FrameCache  # noqa: E402
from coordinator.video.cache.place import CachePlace, place_of  # noqa: E402
from coordinator.video.decoding.augment import draw  # noqa: E402
from coordinator.video.decoding.clip_writer import ClipWriter  # noqa: E402
from coordinator.video.decoding.packets import Damage  # noqa: E402
from coordinator.video.decoding.pictures import DecodedPictures, PictureSource  # noqa: E402
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
    with tempfile.TemporaryDirectory() as folder:
        figures = {
            NAMES.get(root.name, root.name): steps(root, Path(folder), arguments.clips, arguments.rounds)
            for root in _folders(Path(folder))
        }
    for name, found in figures.items():
        print(name, "  ".join(f"{step} {micros}" for step, micros in found.items()))
    if arguments.json:
        print(json.dumps(figures))


def steps(root: Path, folder: Path, count: int, rounds: int) -> dict[str, float]:
    """PyAV's time, and what each step adds to that of the steps before it, in µs a frame."""
    clips, data, _ = _setting(root, 1, None)
    clips = clips[:count]
    reader = Reader(data, folder)
    ways = {
        "pyav": partial(alone, clips),
        "turns": partial(in_turn, clips, reader.decode),
        "conversion": partial(in_turn, clips, reader.convert),
        "cropping": partial(in_turn, clips, reader.crop),
        "memory": partial(in_turn, clips, partial(reader.keep, "memory")),
        "folder": partial(in_turn, clips, partial(reader.keep, "folder")),
        "cached": partial(in_turn, clips, reader.play),
        "bare_memory": partial(reader.write, "memory", clips),
        "bare_folder": partial(reader.write, "folder", clips),
    }
    before = {"turns": "pyav", "conversion": "turns", "cropping": "conversion"}
    before |= {"memory": "cropping", "folder": "cropping"}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):  # the first warms up
        reader.empty()
        for name, play in ways.items():
            start = time.process_time()
            frames = play()
            times[name].append((time.process_time() - start) / frames * 1e6)
    reader.close()
    added = {name: _added(times[name], times[before[name]] if name in before else None) for name in ways}
    return {name: round(median(values[1:]), 1) for name, values in added.items()}


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

    def __init__(self, data: Data, folder: Path) -> None:
        self._data, self._folder = data, folder / "cache"
        self._places: dict[str, CachePlace] = {}
        self._caches: dict[str, FrameCache] = {}
        self._held: list[object] = [None] * SLOTS
        self._ring = np.zeros((CHUNK, SLOTS, data.channels, *data.shape), np.uint8)

    def empty(self) -> None:
        """Begin with empty caches."""
        self.close()
        for kind, cache in (("memory", "memory"), ("folder", str(self._folder))):
            data = self._data.model_copy(update={"cache": cache})
            place = place_of(data)
            assert place is not None
            self._places[kind], self._caches[kind] = place, FrameCache(place.open(), data, print)

    def close(self) -> None:
        """Free the caches."""
        self._caches.clear()
        for place in self._places.values():
            place.close()
        shutil.rmtree(self._folder, ignore_errors=True)

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
        return self._cropped(DecodedPictures(decode_clip(clip, self._data), nullcontext()), slot)

    def keep(self, kind: str, clip: Clip, slot: int) -> Turn:
        """The same, and keep it in a cache."""
        damage = Damage()
        source = DecodedPictures(decode_clip(clip, self._data, damage=damage), nullcontext())
        return self._cropped(RecordedPictures(source, damage, clip, self._caches[kind]), slot)

    def play(self, clip: Clip, slot: int) -> Turn:
        """Crop a chunk of what was kept in memory into the ring."""
        stored = self._caches["memory"].find(clip)
        assert stored is not None
        return self._cropped(CachedPictures(stored, 0, None), slot)

    def write(self, kind: str, clips: list[Clip]) -> int:
        """Write as many bytes as are kept, and nothing else. Returns the number of frames."""
        stored = [found for clip in clips if (found := self._caches["memory"].find(clip))]
        kept, total = stored[0].frames[0], 0
        frame = np.random.default_rng(0).bytes(kept[0].nbytes if not kept.strides[0] else kept.nbytes)
        file = memory_file("bare", 0) if kind == "memory" else os.open(self._folder / "bare", os.O_CREAT | os.O_RDWR)
        for entry in stored:
            for _ in entry.frames:
                os.pwrite(file, frame, total * len(frame))
                total += 1
        os.close(file)
        return total

    def _cropped(self, source: PictureSource, slot: int) -> Turn:
        writer = ClipWriter(partial(draw, data=self._data, random=np.random.default_rng(slot)), source)
        return lambda slot: writer.write(self._ring[:, slot])


if __name__ == "__main__":
    main()
