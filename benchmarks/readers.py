"""Measure how many frames per second readers can feed to several replicas, if decoding cost nothing.

    python benchmarks/readers.py [--json] [--readers 0 1 2 4] [--replicas 4] [--slots 32] [--sizes 112] [--rounds 5]

The product's own coordinator and readers, on frames that are already decoded (`Decoded` of benchmarks/feed.py), in
place of the streams. Each replica is a process that receives frames as stage 0 does, and does nothing with them. The
slots are those of all replicas. 0 readers: the coordinator feeds all replicas. Every number of readers is a run of its
own. The figures are frames per second, medians over the rounds.

shared  frames in shared memory, as on one host
zmq     frames over ZeroMQ (TCP, loopback), as between hosts, but without CURVE

Coordinator, readers and replicas share the cores of this machine: with fewer cores than processes more readers cannot
feed more.
"""

import argparse
import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.bench import DEADLINE, config_of, count, run_script, span
from benchmarks.feed import Decoded

if TYPE_CHECKING:
    from common.config.settings import Config
    from common.messages.stage_calls import Addresses
    from common.processes.membership import Membership
    from coordinator.run.pipeline import Pipeline
    from coordinator.run.training_feed import TrainingFeed

MODES = ("shared", "zmq")  # in this order: a replica notices when the shared memory is closed
WARM, END = 30, 1  # ticks; the phase whose only frame ends a replica


def main() -> None:
    """Measure all sizes and print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the figures as JSON on the last line")
    parser.add_argument("--readers", type=int, nargs="+", default=[0, 1, 2, 4], help="numbers of readers to measure")
    parser.add_argument("--replicas", type=count, default=4, help="number of replicas")
    parser.add_argument("--slots", type=count, default=32, help="number of slots, of all replicas")
    parser.add_argument("--sizes", type=count, nargs="+", default=[112], help="height and width of a frame")
    parser.add_argument("--rounds", type=count, default=5, help="number of rounds")
    parser.add_argument("--seconds", type=span, default=1.0, help="approximate duration of a measurement")
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)  # a process of the run, started by the launcher
    arguments = parser.parse_args()
    if arguments.slots % arguments.replicas or any(n and arguments.replicas % n for n in arguments.readers):
        parser.error("--slots must be a multiple of --replicas, and --replicas one of each number of --readers")
    if arguments.out:
        _process(arguments)
        return
    figures = {str(size): _rates(arguments, size) for size in arguments.sizes}
    for size, by_mode in figures.items():
        print(f"{size} x {size}, frames per second\nreaders " + "".join(f"{mode:>10}" for mode in MODES))
        for readers in by_mode[MODES[0]]:
            print(f"{readers:<8}" + "".join(f"{by_mode[mode][readers]:>10}" for mode in MODES))
    if arguments.json:
        print(json.dumps(figures))


def _rates(arguments: argparse.Namespace, size: int) -> dict[str, dict[str, int]]:
    """Frames per second by mode and number of readers."""
    words = {name: getattr(arguments, name) for name in ("replicas", "slots", "rounds", "seconds")} | {"sizes": size}
    options = [word for name, value in words.items() for word in (f"--{name}", str(value))]
    found = {
        n: run_script(arguments.replicas, "readers", *options, "--readers", str(n), readers=n)
        for n in arguments.readers
    }
    return {mode: {str(n): round(median(rates[mode])) for n, rates in found.items()} for mode in MODES}


# ---- the processes of one run


def _process(arguments: argparse.Namespace) -> None:
    """Rank 0 is the coordinator, then come the replicas, then the readers."""
    from common.processes.output import exit_now

    rank, readers = int(os.environ["RANK"]), arguments.readers[0]
    config = config_of("vgg8", [8], arguments.slots, arguments.sizes[0], replicas=arguments.replicas)
    config = config.model_copy(update={"data": config.data.model_copy(update={"readers": readers})})
    if rank == 0:
        arguments.out.write_text(json.dumps(_coordinate(config, arguments.rounds, arguments.seconds)))
    elif rank <= arguments.replicas:
        _receive(config)
    else:
        from coordinator.reader import __main__ as program
        from coordinator.reader import reader

        vars(reader)["training_slots"] = lambda *_: Decoded(config.of_reader.frame_shape)
        program.main()
    exit_now(0)


def _receive(config: "Config") -> None:
    """A replica: receive frames as its stage 0 does, in one mode after the other, until the last one."""
    from common.config.settings import Network
    from common.errors import PeerError
    from common.processes.joining import join
    from common.processes.membership import REPLICAS
    from common.processes.rpc import start_rpc
    from stage_worker.edges.frame_socket import FrameSocket

    me = join("stage")
    me = me.arranged(int(me.fetch(REPLICAS)))
    start_rpc(me)
    network, shape = Network(deadline=DEADLINE), config.of_replica.frame_shape
    sockets = {mode: FrameSocket(me, network, shape, 4, "a replica", mode == "shared") for mode in MODES}
    for mode, socket in sockets.items():
        me.store.set(f"{mode}/{me.of_replica}", json.dumps([socket.address, socket.memory]))
    for socket in sockets.values():
        phase = 0
        with suppress(PeerError):  # what feeds it has closed the shared memory, and goes on over ZeroMQ
            while phase != END:
                envelope, _ = socket.receive(0)
                phase = envelope.phase
                socket.release(envelope)
    me.store.set(f"ended/{me.of_replica}", "")


def _coordinate(config: "Config", rounds: int, seconds: float) -> dict[str, list[float]]:
    """Frames per second in each round, by mode."""
    from common.processes.joining import join
    from coordinator.run.pipeline import Pipeline

    me = join("coordinator").arranged(config.replicas)
    pipeline = Pipeline(me, DEADLINE)
    found = {}
    for mode in MODES:
        addresses = [_address(me, replica, mode) for replica in range(config.replicas)]
        pipeline.connect(addresses, config.of_replica.frame_bytes)
        feed = _feed(config, pipeline)
        feed.prime()
        _run(feed, 0, WARM)
        ticks = max(WARM, round(seconds / _run(feed, WARM, 2 * WARM) * WARM))
        starts = [2 * WARM + number * ticks for number in range(rounds)]
        found[mode] = [config.data.slots * ticks / _run(feed, start, start + ticks) for start in starts]
    _end(pipeline, me, config)
    return found


def _feed(config: "Config", pipeline: "Pipeline") -> "TrainingFeed":
    from coordinator.run.training_feed import OwnFeed
    from coordinator.video.files.clips import Clips

    if pipeline.readers is None:
        stream: Any = Decoded(config.frame_shape)
        return OwnFeed(stream, config, pipeline)
    pipeline.readers.open(config, Clips(".", [], []), None, 0, pipeline.addresses)
    return pipeline.readers


def _address(me: "Membership", replica: int, mode: str) -> "Addresses":
    from common.messages.stage_calls import Addresses

    frames, memory = json.loads(me.fetch(f"{mode}/{replica}", "a replica"))
    return Addresses(frames, "", memory=memory)


def _run(feed: "TrainingFeed", first: int, last: int) -> float:
    """Feed some ticks. Returns how long it took, in seconds."""
    start = time.perf_counter()
    for tick in range(first, last):
        feed.read(tick)
        feed.push(tick)
    feed.places()
    return time.perf_counter() - start


def _end(pipeline: "Pipeline", me: "Membership", config: "Config") -> None:
    """End the replicas and the readers."""
    from coordinator.video.batch import Batch
    from coordinator.video.targets import Step

    batch = Batch(config.frame_shape)
    pipeline.push(END, 0, Step(batch, batch, last=True))
    for replica in range(config.replicas):
        me.fetch(f"ended/{replica}", "a replica")
    if pipeline.readers is not None:
        pipeline.readers.quit(0)
        time.sleep(0.5)  # until they have got it


if __name__ == "__main__":
    main()
