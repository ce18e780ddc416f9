"""Measure how many frames per second one coordinator can feed, if decoding cost nothing.

    python benchmarks/feed.py [--json] [--sizes 112 224] [--slots 32] [--rounds 5]

The coordinator's work in a tick, on frames that are already decoded, in a ring like the decoding pool's: the product's
Feeder passes a batch on to a FrameSocket in another process, which does not look at the pixels. The figures are frames
per second, medians over the rounds.

shared  the other process reads the ring, as on one host
copied  the frames are copied into a batch, and from there into memory that the other process reads, as with live
        sources on one host
zmq     the batches of the ring over ZeroMQ (TCP, loopback), as between hosts, but without CURVE
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.bench import count
from benchmarks.stream import Product

if TYPE_CHECKING:
    from coordinator.video.batch import Batch

CHUNK, SECONDS = 64, 1.0  # frames of a slot in the ring; approximate duration of a round


class Decoded:
    """Slots whose frames are all decoded: each plays its part of the ring again and again."""

    def __init__(self, shape: tuple[int, int, int, int], copies: bool = False) -> None:
        """`copies`: whether batches are copied from the ring."""
        import numpy as np

        from common.rule.label_form import ONE_CLASS
        from common.shared_memory.frame_memory import FrameMemory
        from coordinator.video.stream import PlaybackErrors

        self.errors, self.form = PlaybackErrors(), ONE_CLASS
        self._memory, self._copies = FrameMemory((CHUNK, *shape), "uint8"), copies
        self._memory.pixels[:] = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        self._clips, self._played = np.arange(shape[0]), 0

    def fill(self, batch: "Batch") -> bool:
        """As Slots.fill does."""
        frames = self._memory.pixels[self._played % CHUNK]
        if self._copies:
            batch.frames[:] = frames
        else:
            batch.memory, batch.frames = self._memory, frames
        batch.clips[:], batch.labels[:] = self._clips, 0
        self._played += 1
        return True

    def places(self) -> list[tuple[int, int]]:
        """As those of Slots."""
        return [(int(clip), self._played) for clip in self._clips]

    def close(self) -> None:
        """Free the ring."""
        self._memory.close()


def main() -> None:
    """Measure all sizes and print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the figures as JSON on the last line")
    parser.add_argument("--sizes", type=count, nargs="+", default=[112, 224], help="height and width of a frame")
    parser.add_argument("--slots", type=count, default=32, help="number of slots")
    parser.add_argument("--rounds", type=count, default=5, help="number of rounds")
    arguments = parser.parse_args()
    figures = {str(size): rates(size, arguments.slots, arguments.rounds) for size in arguments.sizes}
    print("frames per second   " + "".join(f"{name:>10}" for name in next(iter(figures.values()))))
    for size, row in figures.items():
        print(f"{size + ' x ' + size:<20}" + "".join(f"{rate:>10.0f}" for rate in row.values()))
    if arguments.json:
        print(json.dumps(figures))


def rates(size: int, slots: int, rounds: int) -> dict[str, Any]:
    """Frames per second by transport."""
    shape = slots, 3, size, size
    with (
        Product(Decoded(shape), shape) as shared,
        Product(Decoded(shape, copies=True), shape) as copied,
        Product(Decoded(shape), shape, shares_memory=False) as over_zmq,
    ):
        contenders = {"shared": shared, "copied": copied, "zmq": over_zmq}
        ticks = {name: max(1, round(SECONDS / product.play(20) * 20)) for name, product in contenders.items()}
        found: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(rounds):
            for name, product in contenders.items():
                found[name].append(ticks[name] * slots / product.play(ticks[name]))
    return {name: round(median(values)) for name, values in found.items()}


if __name__ == "__main__":
    main()
