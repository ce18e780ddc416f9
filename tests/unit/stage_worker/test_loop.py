"""The tick loop over in-memory ports: it equals the reference however late packets arrive; and failures in it."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from common.config.settings import Config, Data, Network, Optimiser, Rule
from common.errors import PeerError
from common.rule.loss import Target
from common.rule.packet import Packet
from common.rule.reference import Reference
from common.rule.schedule import schedule_of
from common.rule.stage import Stage
from common.telemetry.spans import COMPUTE, RECEIVE_WAIT, Kind, WorkClock
from stage_worker.device_pace import DevicePace
from stage_worker.edges.ends import Receiver, Sender
from stage_worker.edges.ports import EdgePorts
from stage_worker.loop import SidewaysLoop, run_ticks
from stage_worker.reporting.gradient_probe import StageProbe
from stage_worker.reporting.reporter import Reporter
from stage_worker.stage_stream import StageStream
from tests.support.adversarial_edge import AdversarialEdge

ROWS, WIDTH, TICKS = 4, 6, 40


def stages_of(count: int, task: str, every: int, edge_ticks: int | list[int] = 1) -> list[Stage]:
    torch.manual_seed(count)
    widths = [WIDTH] * count + [5 if task == "classify" else WIDTH]
    parts = [nn.Sequential(nn.Linear(widths[i], widths[i + 1]), nn.Tanh()) for i in range(count)]
    optimiser = Optimiser(name="SGD", lr=0.05, lr_by_mismatch=False, args={"momentum": 0.5})
    data, rule = Data(train="."), Rule(every=every)
    network = Network(edge_ticks=edge_ticks)
    config = Config(stages=count, task=task, ticks=TICKS, data=data, rule=rule, optimiser=optimiser, network=network)
    return [Stage(part, i, config) for i, part in enumerate(parts)]


def frames() -> Iterator[tuple[Packet, Target]]:
    """Batches of slowly changing rows, whose clips end at different ticks."""
    drawn = torch.Generator().manual_seed(7)  # the stages' threads use the global generator
    for tick in range(TICKS):
        packet = Packet((ROWS, WIDTH))
        packet.set_header(tick - 1, tick)
        packet.clips[:] = [100 * row + tick // (5 + row) for row in range(ROWS)]
        packet.labels[:] = [(tick // 3 + row) % 5 for row in range(ROWS)]
        packet.tensor.copy_(torch.randn(ROWS, WIDTH, generator=drawn))
        yield packet, Target(packet.tensor.clone(), packet.clips.copy())


@dataclass
class Frames:
    """Stage 0's frames, in one packet that each frame overwrites."""

    packet: Packet = field(default_factory=lambda: Packet((ROWS, WIDTH)))
    coming: Iterator[tuple[Packet, Target]] = field(default_factory=frames)

    def receive(self, tick: int) -> Packet:
        packet, _ = next(self.coming)
        self.packet.from_bytes(packet.to_bytes())
        return self.packet


class Targets:
    """The top stage's targets."""

    def __init__(self) -> None:
        self._known = {packet.frame: target for packet, target in frames()}

    def target(self, tick: int, held: Packet) -> Target:
        return self._known[held.frame]


class Reports:
    """A reporter that collects losses."""

    def __init__(self) -> None:
        self.due, self.losses, self.flushed = False, list[float](), list[int]()

    def begin(self, loop: SidewaysLoop) -> None:
        loop.clear()

    def ticked(self, tick: int, loop: SidewaysLoop) -> None:
        if loop.stage.loss is not None:
            self.losses.append(float(loop.stage.loss))

    def flush(self, tick: int, loop: SidewaysLoop) -> None:
        self.flushed.append(tick)


class Workers:
    """A loop for each stage in its own thread, connected by adversarial edges."""

    def __init__(self, stages: list[Stage], task: str = "classify") -> None:
        count = len(stages)
        schedule = schedule_of(stages[0].config)
        ticks = [schedule.ticks_between(i, i + 1) for i in range(count - 1)]
        make = [partial(_output, stage) for stage in stages]
        self.up = [AdversarialEdge(make[i], f"{i} up to {i + 1}", ticks[i]) for i in range(count - 1)]
        self.down = [AdversarialEdge(make[i], f"{i + 1} down to {i}", ticks[i]) for i in range(count - 1)]
        self.reports = [Reports() for _ in stages]
        self.errors: dict[int, BaseException] = {}
        self.loops = []
        for i, stage in enumerate(stages):
            work = WorkClock()
            ports = EdgePorts(
                torch.device("cpu"),
                frames=cast(Any, Frames()) if i == 0 else None,
                targets=cast(Any, Targets()) if task != "classify" and stage.is_top else None,
                inputs=_receiver(self.up[i - 1], i, i - 1, schedule.first_input(i), work) if i else None,
                outputs=_sender(self.up[i], work) if not stage.is_top else None,
                gradients_in=(
                    _receiver(self.down[i], i, i + 1, schedule.first_gradient(i), work) if not stage.is_top else None
                ),
                gradients_out=_sender(self.down[i - 1], work) if i else None,
            )
            pace, stream = DevicePace(torch.device("cpu"), i, 20.0), StageStream(torch.device("cpu"), alone=True)
            self.loops.append(
                SidewaysLoop(stage, ports, cast(Reporter, self.reports[i]), work, pace, stream, StageProbe())
            )

    def run(self, first: int, last: int) -> None:
        threads = [threading.Thread(target=self._work, args=(i, first, last)) for i in range(len(self.loops))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _work(self, i: int, first: int, last: int) -> None:
        try:
            self.loops[i].last = last
            run_ticks([self.loops[i]], first)
        except BaseException as error:
            self.errors[i] = error
            for edge in (*self.up, *self.down):
                edge.break_off()


def _output(stage: Stage) -> Packet:
    last = stage.blocks[-2]
    assert isinstance(last, nn.Linear)
    return Packet((ROWS, last.out_features))


def _sender(edge: AdversarialEdge, work: WorkClock) -> Sender:
    return Sender(edge.outgoing, work, Kind.SEND_ACTIVATION, Kind.WAIT_ACTIVATION_SENT)


def _receiver(edge: AdversarialEdge, stage: int, neighbour: int, first: int, work: WorkClock) -> Receiver:
    return Receiver(edge.incoming, stage, neighbour, first, work, Kind.WAIT_ACTIVATION, edge.ticks)


def weights(stages: list[Stage]) -> list[Tensor]:
    return [parameter.detach().clone() for stage in stages for parameter in stage.blocks.parameters()]


def reference(count: int, task: str, every: int, edge_ticks: int | list[int] = 1) -> tuple[list[float], list[Tensor]]:
    stages = stages_of(count, task, every, edge_ticks)
    whole = Reference(stages, (ROWS, WIDTH))
    losses = [whole.tick(packet, None if task == "classify" else target) for packet, target in frames()]
    return [float(loss) for loss in losses if loss is not None], weights(stages)


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("task", ["classify", "autoencode"])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_loops_equal_the_reference_bit_for_bit_however_late_packets_arrive(count: int, task: str, every: int) -> None:
    stages = stages_of(count, task, every)
    workers = Workers(stages, task)
    workers.run(0, TICKS)
    assert not workers.errors, workers.errors
    losses, expected = reference(count, task, every)
    assert workers.reports[-1].losses == losses
    assert all(torch.equal(a, b) for a, b in zip(weights(stages), expected, strict=True))
    assert all(report.flushed == [TICKS - 1] for report in workers.reports)


@pytest.mark.parametrize("task", ["classify", "autoencode"])
@pytest.mark.parametrize("edge_ticks", [2, [1, 3], [5, 1]])
def test_edges_of_several_ticks_equal_the_reference_too(task: str, edge_ticks: int | list[int]) -> None:
    stages = stages_of(3, task, 1, edge_ticks)
    workers = Workers(stages, task)
    workers.run(0, TICKS)
    assert not workers.errors, workers.errors
    losses, expected = reference(3, task, 1, edge_ticks)
    assert workers.reports[-1].losses == losses
    assert all(torch.equal(a, b) for a, b in zip(weights(stages), expected, strict=True))


@pytest.mark.parametrize("edge_ticks", [1, [3, 2]])
def test_consecutive_phases_equal_one_phase(edge_ticks: int | list[int]) -> None:
    """Between two phases nothing is in flight, and packets that have arrived are kept."""
    stages = stages_of(3, "classify", 1, edge_ticks)
    workers = Workers(stages)
    for first, last in pairwise([0, 1, 2, 4, 5, 17, TICKS]):
        workers.run(first, last)
    assert not workers.errors, workers.errors
    assert workers.reports[-1].losses == reference(3, "classify", 1, edge_ticks)[0]


@pytest.mark.parametrize("count", [1, 3])
def test_the_top_stages_output_for_a_frame_is_copied_on_request(count: int) -> None:
    stages, outputs = stages_of(count, "classify", 1), list[Tensor]()
    stages[-1].blocks.register_forward_hook(lambda blocks, x, y: outputs.append(y.detach().clone()))
    workers = Workers(stages)
    workers.loops[-1].sampler.ask(7, 2, 1)
    workers.run(0, TICKS)
    sample = workers.loops[-1].sampler.sample
    assert sample is not None
    assert sample.frame == 7
    assert torch.equal(sample.rows, outputs[7][:2])
    assert [float(loss) for loss in workers.reports[-1].losses] == reference(count, "classify", 1)[0]


def test_the_adversarial_edge_detects_early_buffer_use() -> None:
    """A receiver that posts a receive before it has read the packet gets NaN and invalid labels."""

    class Hasty(Receiver):
        def receive(self, tick: int) -> Packet | None:
            packet = super().receive(tick)
            if packet is not None:
                self._incoming.post(tick)  # into the packet that is being read
            return packet

    stages = stages_of(2, "classify", 1)
    workers = Workers(stages)
    work = WorkClock()
    hasty = Hasty(workers.up[0].incoming, 1, 0, 1, work, Kind.WAIT_ACTIVATION)
    down = _sender(workers.down[0], work)
    workers.loops[1].ports = EdgePorts(torch.device("cpu"), inputs=hasty, gradients_out=down)
    workers.run(0, 6)
    assert isinstance(workers.errors[1], IndexError)  # invalid labels


@pytest.mark.parametrize("stage", [0, 1, 2])
@pytest.mark.parametrize("tick", [3, 9])
def test_a_stage_fails_at_its_tick_and_its_neighbours_soon_after(stage: int, tick: int) -> None:
    stages = stages_of(3, "classify", 1)
    workers = Workers(stages)
    edge = workers.up[stage] if stage < 2 else workers.down[1]
    edge.fail_at = tick
    workers.run(0, TICKS)
    assert isinstance(workers.errors[stage], PeerError)
    assert str(workers.errors[stage]) == f"{edge.name}, tick {tick}: it fails here"
    assert set(workers.errors) == {0, 1, 2}
    assert all(isinstance(error, PeerError) for error in workers.errors.values())


def test_time_is_attributed_to_the_right_kind_of_work() -> None:
    workers = Workers(stages_of(2, "classify", 1))
    workers.run(0, TICKS)
    for loop in workers.loops:
        times = loop.times()
        assert times.compute == loop.work.seconds(COMPUTE) > 0
        assert times.receive_wait == loop.work.seconds(RECEIVE_WAIT) > 0
        assert loop.model_cpu is not None
        assert loop.model_cpu > 0
    sent = workers.loops[0].bytes_sent()
    assert sent == (TICKS * _output(workers.loops[0].stage).nbytes, 0)
    assert workers.loops[1].bytes_sent()[1] > 0
    workers.loops[0].clear()
    assert workers.loops[0].bytes_sent() == (0, 0)


def test_a_running_training_can_be_ended_at_a_tick() -> None:
    stages = stages_of(1, "classify", 1)
    workers = Workers(stages)
    (loop,), (report,) = workers.loops, workers.reports

    def ticked(tick: int, loop: SidewaysLoop) -> None:
        if tick == 4:
            loop.last = 7

    report.ticked = ticked  # type: ignore[method-assign]
    loop.last = TICKS
    run_ticks([loop], 0)
    assert report.flushed == [6]
