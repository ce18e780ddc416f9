"""Compare the frames per second from video files into a stage with those of decoding alone.

    python benchmarks/stream.py [--json] [--threads 1] [--data FOLDER] [--cache [folder]]

All contenders decode every frame of the same files, at most --threads files at a time (FFmpeg itself uses one thread
per file). The product does more than decode, and does that in parallel: two processes per thread take turns, one
decoding while the other converts, and two more processes send and receive the batches. So it uses more cores than bare
decoding does; if there are none left, as with a decoding thread per core, the rest of the work slows decoding down.

bare      PyAV: open, demux and decode every frame of every file. The frames are dropped in the file's own pixel format
          and size: nothing is converted, resized or copied. Threads take the files from one queue.
pixels    the same, plus to_ndarray(format="rgb24") for each frame, which a user of PyAV needs to access its pixels.
product   the product's Slots: open, demux, decode, convert to RGB, resize, and random crops and flips as in training;
          batches of 16 slots; then the product's Feeder sends them to a FrameSocket in another process, which checks
          and receives them: envelopes over ZeroMQ and frames in shared memory, as on one host. Without --size, the
          frames keep their short side, so that no time is saved by shrinking them.
zmq       the same, with the frames over ZeroMQ too (TCP, loopback), as between hosts, but without CURVE.

loader    only with --loader, and compared with the product: a torch.utils.data.DataLoader in place of the decoding
          pool, with as many processes, each sample a whole clip (benchmarks/clip_loader.py). The two run one after the
          other, as a DataLoader would read ahead while the other is measured, in rounds too long for reading ahead to
          matter.

cached    only with --cache: the product with data.cache, in memory or with `--cache folder` in a folder. "first" is its
          first epoch, with an empty cache, once the first chunk of each slot has been played; "without" is the same
          with no cache; "cached" is a round of later epochs. The last line of --json is {"NAME": {"first": ratio to
          bare, "cached": ratio to bare, "rates": {"bare": frames/s, …}}, …}.

Rounds of the first four alternate within the run; the figures are medians. A round of the product is a fixed number of
ticks of one endless stream, so clips begin and end within it as in training. With --cache rounds alternate too, each
with streams and a cache of its own.
"""

import argparse
import json
import multiprocessing
import os
import shutil
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
SECONDS = 1.0  # of a round, approximately
LOADER_ROUNDS, LOADER_SECONDS = 3, 6.0


def main() -> None:
    """Measure all folders and print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the figures as JSON on the last line")
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2], help="numbers of decoding threads to measure")
    parser.add_argument(
        "--data", type=Path, nargs="*", help="folders of videos; default: the shared data sets, else generated videos"
    )
    parser.add_argument("--size", type=int, help="the product's data.size in pixels; default: the files' short side")
    parser.add_argument("--loader", action="store_true", help="compare the product with a DataLoader instead")
    parser.add_argument(
        "--cache", nargs="?", const="memory", choices=["memory", "folder"], help="measure data.cache instead"
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="rounds of --cache; default: %(default)s")
    arguments = parser.parse_args()
    from common.processes.allocator import ALLOCATOR

    if not ALLOCATOR.keys() <= os.environ.keys():  # use the allocator of the coordinator and the stages
        os.execve(sys.executable, [sys.executable, *sys.argv], {**ALLOCATOR, **os.environ})  # noqa: S606
    with tempfile.TemporaryDirectory() as folder:
        if arguments.cache:
            roots = arguments.data or _folders(Path(folder))
            how = Path(folder), arguments.cache, arguments.rounds, arguments.size
            kept = {root.name: cached(root, *how) for root in roots}
            if arguments.json:
                print(json.dumps(kept))
            return
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
            "data              size       threads   bare  pixels  product  product/bare (goal 0.85) /pixels  zmq/bare"
        )
    pixels = f"{row['width']}x{row['height']}"
    print(
        f"{row['data']:<17} {pixels:<10} {row['threads']:>7} {row['bare']:>6.0f} {row['pixels']:>7.0f} "
        f"{row['product']:>8.0f} {row['ratio']:>24.2f} {row['ratio_to_pixels']:>8.2f} {row['ratio_over_zmq']:>9.2f}"
    )


def _folders(temporary: Path) -> list[Path]:
    shared = [SHARED / name for name in ("msr_action3d", "drones") if (SHARED / name).is_dir()]
    return shared or [_draw(temporary / "drawn")]


def _draw(folder: Path) -> Path:
    from tests.support.videos import write_clip

    for number in range(24):
        write_clip(folder / "a" / f"{number}.mp4", 120, size=(320, 256), seed=number)
    return folder


def compare(root: Path, threads: int, size: int | None = None) -> dict[str, Any]:
    """Medians of the first four contenders on all videos below a folder, and their ratios."""
    from coordinator.video.decoder_pool.clip_player import Job
    from coordinator.video.slots import Slots

    clips, data, info = _setting(root, threads, size)
    paths, shape = [clip.path for clip in clips], (SLOTS, data.channels, *data.shape)
    bare, pixels, product, over_zmq = [], [], [], []
    first, second = (Slots(Job(clips, data, 0, train=True)) for _ in range(2))
    with Product(first, shape) as stream, Product(second, shape, shares_memory=False) as other:
        frames, seconds = decode(paths, threads)  # warms up the disk cache, and determines the length of a round
        repeats = max(1, round(SECONDS / seconds))
        ticks = max(1, round(SECONDS * frames / seconds / SLOTS))
        stream.play(ticks)
        other.play(ticks)
        for _ in range(ROUNDS):
            frames, seconds = decode(paths * repeats, threads)
            bare.append(frames / seconds)
            frames, seconds = decode(paths * repeats, threads, pixels=True)
            pixels.append(frames / seconds)
            product.append(ticks * SLOTS / stream.play(ticks))
            over_zmq.append(ticks * SLOTS / other.play(ticks))
    return {
        "data": root.name,
        "width": info.width,
        "height": info.height,
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


def cached(root: Path, folder: Path, kind: str, rounds: int, size: int | None = None) -> dict[str, Any]:
    """Frames per second, one file at a time, of bare decoding, and of the product without a cache, in its first epoch
    and in later ones; and the ratios of the last two to bare decoding, and of the first epoch to one without a cache,
    medians over the rounds.
    """
    clips, data, _ = _setting(root, 1, size)
    frames, _ = decode([clip.path for clip in clips], 1)  # warms up the disk cache
    rates: dict[str, list[float]] = {name: [] for name in ("bare", "without", "first", "cached")}
    for number in range(rounds):
        frames, seconds = decode([clip.path for clip in clips], 1)
        rates["bare"].append(frames / seconds)
        first, _ = _epochs(clips, data, frames)
        rates["without"].append(first)
        kept = data.model_copy(update={"cache": "memory" if kind == "memory" else str(folder / f"cache{number}")})
        first, later = _epochs(clips, kept, frames)
        rates["first"].append(first)
        rates["cached"].append(later)
        shutil.rmtree(folder / f"cache{number}", ignore_errors=True)
    medians = {name: median(values) for name, values in rates.items()}
    shown = "  ".join(f"{name} {value:.0f} ({value / medians['bare']:.2f})" for name, value in medians.items())
    print(f"{root.name:<17} frames/s and ratio to bare: {shown}", flush=True)
    ratios = {name: _ratio(rates[name], rates["bare"]) for name in ("first", "cached")}
    ratios["first_to_without"] = _ratio(rates["first"], rates["without"])
    return {**ratios, "rates": {name: round(value, 1) for name, value in medians.items()}}


def _ratio(rates: list[float], others: list[float]) -> float:
    """Median of the rounds' ratios: the machine may be busier in one round than in the next."""
    return round(median(rate / other for rate, other in zip(rates, others, strict=True)), 4)


def _epochs(clips: list["Clip"], data: "Data", frames: int) -> tuple[float, float]:
    """Frames per second of a new stream in its first epoch of `frames` frames, and, with a cache, in later ones."""
    from coordinator.video.cache.place import place_of
    from coordinator.video.decoder_pool.clip_player import Job
    from coordinator.video.decoder_pool.shared_ring import chunk_of
    from coordinator.video.slots import Slots

    place, epoch, begun = place_of(data), frames // SLOTS, chunk_of(data, in_use=9)
    slots = Slots(Job(clips, data, 0, train=True, cache=place))
    with Product(slots, (SLOTS, data.channels, *data.shape)) as stream:
        stream.play(begun)
        first = SLOTS * (epoch - begun) / stream.play(epoch - begun)
        later = 0.0
        if place is not None:
            stream.play(2 * epoch)
            later = SLOTS * 4 * epoch / stream.play(4 * epoch)
    if place is not None:
        place.close()
    return first, later


def _setting(root: Path, threads: int, size: int | None) -> tuple[list["Clip"], "Data", "MediaInfo"]:
    """The clips below a folder, the data settings to play them with, and the first clip's media information."""
    from common.config.settings import Data
    from coordinator.video.decoding.media_info import MediaInfo, read_media_info
    from coordinator.video.files.clips import find

    clips = find(root, "*", 1, labelled=False).clips
    info = read_media_info(clips[0].path)
    assert isinstance(info, MediaInfo)
    short = size or min(info.width, info.height)
    return clips, Data(train=root, slots=SLOTS, size=short, flip=0.5, threads=threads), info


def against_loader(root: Path, threads: int, size: int | None = None) -> dict[str, Any]:
    """Medians of the product and of a DataLoader in frames per second, and their ratio."""
    from benchmarks.clip_loader import LoaderSlots
    from coordinator.video.decoder_pool.clip_player import Job
    from coordinator.video.slots import Slots

    clips, data, _ = _setting(root, threads, size)
    shape = SLOTS, data.channels, *data.shape
    rates: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(LOADER_ROUNDS):
        for use_loader in rates:
            slots = LoaderSlots(clips, data) if use_loader else Slots(Job(clips, data, 0, train=True))
            with Product(slots, shape) as stream:
                rate = SLOTS * 50 / stream.play(50)
                stream.play(round(rate * LOADER_SECONDS / SLOTS / 2))  # uses up what was read ahead
                ticks = round(rate * LOADER_SECONDS / SLOTS)
                rates[use_loader].append(ticks * SLOTS / stream.play(ticks))
    product, loader = median(rates[False]), median(rates[True])
    figures = {"product": round(product), "loader": round(loader), "ratio_to_loader": round(product / loader, 3)}
    return {"data": root.name, "threads": threads, "size": data.size, **figures}


def decode(paths: list[Path], threads: int, pixels: bool = False) -> tuple[int, float]:
    """Decode files with PyAV alone. Returns the number of frames and the seconds that it took."""
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
    """Slots and a Feeder in this process, a FrameSocket in another one."""

    def __init__(self, slots: Any, shape: tuple[int, int, int, int], shares_memory: bool = True) -> None:
        """`slots` fills batches of `shape` as Slots does, and is closed at the end."""
        from common.messages.stage_calls import Addresses
        from coordinator.video.batch import Batch
        from coordinator.video.feeder import Feeder
        from coordinator.video.targets import Step
        from tests.support import members

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
        self._slots = slots
        self._tick = 0

    def __enter__(self) -> "Product":
        return self

    def __exit__(self, *args: object) -> None:
        self._ours.send(0)
        self._slots.close()
        self._feeder.close()
        self._process.join(DEADLINE)

    def play(self, ticks: int) -> float:
        """The seconds until the other process has received `ticks` batches."""
        self._ours.send(ticks)
        start, batch = time.perf_counter(), self._batch
        for _ in range(ticks):
            self._slots.fill(batch)
            self._feeder.push(0, self._tick, self._step)
            self._tick += 1
        self._ours.recv()
        return time.perf_counter() - start


def _take(connection: Connection, shape: tuple[int, ...], shares_memory: bool) -> None:
    """The stage's side: receives a requested number of batches and answers when it has them."""
    from common.config.settings import Network
    from stage_worker.edges.frame_socket import FrameSocket
    from tests.support import members

    network = Network(deadline=DEADLINE)
    frame_socket = FrameSocket(members.stage(), network, shape, 4, "the benchmark", shares_memory)
    connection.send((frame_socket.address, frame_socket.memory))
    tick = 0
    while ticks := connection.recv():
        for _ in range(ticks):
            envelope, _ = frame_socket.receive(tick)
            assert envelope.frame == tick, f"received frame {envelope.frame} instead of {tick}"
            frame_socket.release(envelope)
            tick += 1
        connection.send(tick)
    frame_socket.close()


if __name__ == "__main__":
    main()
