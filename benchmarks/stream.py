"""Frames a second from video files into a stage, against decoding alone.

    python benchmarks/stream.py [--json] [--threads 1] [--data FOLDER]

All sides decode the same files, every frame of them, and at most --threads of them at any time (FFmpeg itself uses one
thread a file). The product does more than decoding, and does it beside: two processes for each thread take turns, one
decodes while the other converts, and two more send and take the batches. So it uses more cores than the bare side does;
where there are none, as with as many decoding threads as cores, all of that is taken off decoding.

bare      PyAV: open, demux and decode every frame of every file; the frames are dropped as they are, in the file's own
          pixel format and size: nothing is converted, resized or copied. Threads take the files from one queue.
pixels    the same, and each frame's to_ndarray(format="rgb24"): what a user of PyAV does to have its pixels.
product   the product's own Slots: open, demux, decode, convert to RGB, resize, and for a training clip a random crop
          and flip; batches of 16 slots; the product's Feeder to the product's FrameSocket in another process, which
          checks and takes them: envelopes over ZeroMQ, and the frames in shared memory, as on one host. Without --size
          the short side stays as it is, so that nothing is saved by shrinking.
zmq       the same with the frames, too, over ZeroMQ (TCP, loopback), as between hosts, but without CURVE.

loader    only with --loader: a torch.utils.data.DataLoader in place of the decoding pool, with as many processes, each
          task a whole clip (benchmarks/clip_loader.py), against the product. Each has the machine for itself, as a
          DataLoader reads ahead while others are measured, for rounds that outlast what it has read ahead.

Rounds of the first four alternate within the run; medians are compared. A product round is a fixed number of ticks of
one endless stream, so clips are opened and ended within it as in training.
"""

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from common.config.settings import Data
    from coordinator.video.decoding.media_info import MediaInfo
    from coordinator.video.files.clips import Clip

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

SHARED = ROOT.parent / "shared" / "data"
SLOTS, ROUNDS, DEADLINE = 16, 5, 60.0
SECONDS = 1.0  # of a round, about
LOADER_ROUNDS, LOADER_SECONDS = 3, 6.0


def main() -> None:
    """Run all of it and print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the figures as one last line")
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2], help="decoding threads of both sides")
    parser.add_argument("--data", type=Path, nargs="*", help="folders of videos; default: the shared ones, or drawn")
    parser.add_argument("--size", type=int, help="pixels that the product plays; default: the files' short side")
    parser.add_argument("--loader", action="store_true", help="compare with a DataLoader instead")
    arguments = parser.parse_args()
    from common.processes.lifecycle import ALLOCATOR

    if not ALLOCATOR.keys() <= os.environ.keys():  # the coordinator's own, and the stages'
        os.execve(sys.executable, [sys.executable, *sys.argv], {**ALLOCATOR, **os.environ})  # noqa: S606
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for root in arguments.data or _folders(Path(folder)):
            for threads in arguments.threads:
                if arguments.loader:
                    rows.append(against_loader(root, threads, arguments.size))
                    print("  ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
                    continue
                rows.append(compare(root, threads, arguments.size))
                _print(rows[-1], first=len(rows) == 1)
    if arguments.json:
        figures: dict[str, Any] = {"rows": rows}
        if not arguments.loader:
            figures["lowest_ratio"] = min(row["ratio"] for row in rows)
        print(json.dumps(figures))


def _print(row: dict[str, Any], first: bool) -> None:
    if first:
        print(
            "data              size       threads   bare  pixels  product  product/bare (aim 0.85)  /pixels  zmq/bare"
        )
    pixels = f"{row['width']}x{row['height']}"
    print(
        f"{row['data']:<17} {pixels:<10} {row['threads']:>7} {row['bare']:>6.0f} {row['pixels']:>7.0f} "
        f"{row['product']:>8.0f} {row['ratio']:>24.2f} {row['ratio_to_pixels']:>8.2f} {row['ratio_over_zmq']:>9.2f}"
    )


def _folders(spare: Path) -> list[Path]:
    shared = [SHARED / name for name in ("msr_action3d", "drones") if (SHARED / name).is_dir()]
    return shared or [_draw(spare / "drawn")]


def _draw(folder: Path) -> Path:
    from tests.support.videos import write_clip

    for number in range(24):
        write_clip(folder / "a" / f"{number}.mp4", 120, size=(320, 256), seed=number)
    return folder


def compare(root: Path, threads: int, size: int | None = None) -> dict[str, Any]:
    """The medians of both sides, on all videos below a folder."""
    clips, data, said = _setting(root, threads, size)
    paths = [clip.path for clip in clips]
    bare, pixels, product, over_zmq = [], [], [], []
    with Product(clips, data, shares_memory=True) as stream, Product(clips, data, shares_memory=False) as other:
        frames, seconds = decode(paths, threads)  # warms up the disk's cache, and sizes the rounds
        share = max(1, round(SECONDS / seconds))
        ticks = max(1, round(SECONDS * frames / seconds / SLOTS))
        stream.play(ticks)
        other.play(ticks)
        for _ in range(ROUNDS):
            frames, seconds = decode(paths * share, threads)
            bare.append(frames / seconds)
            frames, seconds = decode(paths * share, threads, pixels=True)
            pixels.append(frames / seconds)
            product.append(ticks * SLOTS / stream.play(ticks))
            over_zmq.append(ticks * SLOTS / other.play(ticks))
    return {
        "data": root.name,
        "width": said.width,
        "height": said.height,
        "size": data.size,
        "threads": threads,
        "bare": round(median(bare), 1),
        "pixels": round(median(pixels), 1),
        "product": round(median(product), 1),
        "zmq": round(median(over_zmq), 1),
        "ratio": round(median(product) / median(bare), 4),
        "ratio_over_zmq": round(median(over_zmq) / median(bare), 4),
        "ratio_to_pixels": round(median(product) / median(pixels), 4),
        "rounds": ROUNDS,
        "ticks": ticks,
    }


def _setting(root: Path, threads: int, size: int | None) -> tuple[list["Clip"], "Data", "MediaInfo"]:
    """The clips below a folder, how they are played, and what the first one is like."""
    from common.config.settings import Data
    from coordinator.video.decoding.media_info import MediaInfo, read_media_info
    from coordinator.video.files.clips import find

    clips = find(root, "*", 1, labelled=False).clips
    info = read_media_info(clips[0].path)
    assert isinstance(info, MediaInfo)
    short = size or min(info.width, info.height)
    return clips, Data(train=root, slots=SLOTS, size=short, flip=0.5, threads=threads), info


def against_loader(root: Path, threads: int, size: int | None = None) -> dict[str, Any]:
    """Medians of the product and of a DataLoader, in frames a second."""
    clips, data, _ = _setting(root, threads, size)
    rates: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(LOADER_ROUNDS):
        for loads in rates:
            with Product(clips, data, loads=loads) as stream:
                rate = SLOTS * 50 / stream.play(50)
                stream.play(round(rate * LOADER_SECONDS / SLOTS / 2))  # what was read ahead is used up
                ticks = round(rate * LOADER_SECONDS / SLOTS)
                rates[loads].append(ticks * SLOTS / stream.play(ticks))
    product, loader = median(rates[False]), median(rates[True])
    figures = {"product": round(product), "loader": round(loader), "ratio_to_loader": round(product / loader, 3)}
    return {"data": root.name, "threads": threads, "size": data.size, **figures}


def decode(paths: list[Path], threads: int, pixels: bool = False) -> tuple[int, float]:
    """Frames of the files, and seconds that bare PyAV takes for them."""
    start = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        frames = sum(pool.map(partial(_decode, pixels=pixels), paths))
    return frames, time.perf_counter() - start


def _decode(path: Path, pixels: bool) -> int:
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        return sum(1 for frame in container.decode(stream) if not pixels or len(frame.to_ndarray(format="rgb24")))


class Product:
    """Slots and Feeder here, a FrameSocket in another process."""

    def __init__(self, clips: list[Any], data: Any, shares_memory: bool = True, loads: bool = False) -> None:
        from benchmarks.clip_loader import LoaderSlots
        from common.messages.stage_calls import Addresses
        from coordinator.video.feeder import Feeder
        from coordinator.video.slots import Slots
        from coordinator.video.targets import Batch, Step
        from tests.support import members

        shape = (data.slots, data.channels, data.size, data.size)
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_take, args=(theirs, shape, shares_memory), daemon=True)
        self._process.start()
        address, memory = self._ours.recv()
        self._batch = Batch(shape)
        self._step = Step(self._batch, self._batch, last=False)
        size = self._batch.frames.nbytes
        addresses = [Addresses(frames=address, targets="", memory=memory)]
        self._feeder = Feeder(members.coordinator(), addresses, size, DEADLINE, lambda: None)
        self._slots: Any = LoaderSlots(clips, data) if loads else Slots(clips, data, 0, train=True)
        self._tick = 0

    def __enter__(self) -> "Product":
        return self

    def __exit__(self, *args: object) -> None:
        self._ours.send(0)
        self._slots.close()
        self._feeder.close()
        self._process.join(DEADLINE)

    def play(self, ticks: int) -> float:
        """Seconds until the other process has taken so many batches."""
        self._ours.send(ticks)
        start, batch = time.perf_counter(), self._batch
        for _ in range(ticks):
            self._slots.fill(batch.frames, batch.clips, batch.labels)
            self._feeder.push(0, self._tick, self._step)
            self._tick += 1
        self._ours.recv()
        return time.perf_counter() - start


def _take(connection: Connection, shape: tuple[int, ...], shares_memory: bool) -> None:
    """The stage's side: takes as many batches as it is told, and says when it has them."""
    from common.config.settings import Network
    from stage_worker.edges.frame_intake import FrameSocket
    from tests.support import members

    network = Network(deadline=DEADLINE)
    frame_socket = FrameSocket(members.stage(), network, shape, 4, "the benchmark", shares_memory)
    connection.send((frame_socket.address, frame_socket.memory))
    tick = 0
    while ticks := connection.recv():
        for _ in range(ticks):
            envelope, _ = frame_socket.receive(tick)
            assert envelope.frame == tick, f"frame {envelope.frame} came where {tick} was due"
            frame_socket.release(envelope)
            tick += 1
        connection.send(tick)
    frame_socket.close()


if __name__ == "__main__":
    main()
