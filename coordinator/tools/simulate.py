"""A pipeline on paper: how fast its ticks are over links of given delays, and how much each stage idles.

A stage waits in a tick for what common/rule/tick.py waits for, and sends when it sends. What is sent leaves, as over
gloo (stage_worker/edges/torch_p2p.py),

- when the sender has heard that the receive is posted, which it is 2d - 1 ticks ahead over an edge of d ticks, and
- when all that its host sent before has left, so many bytes a second;

and then takes the link's delay. A sender has d + 1 packets, and waits until one is free. Not simulated: the reading of
frames, processor time for sending, congestion of the network and how TCP finds its rate. A lost segment, of a message
or of a notice, holds up what is behind it for one and a half round trips: TCP notices it when later ones are
acknowledged and, by RACK, a fourth of a round trip has passed. How long that is was fitted to one measurement
(docs/scaling.md).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from common.rule.schedule import Schedule

SEGMENT = 1448  # bytes of a TCP segment
REPEAT = 3.0  # one-way delays that a lost segment costs


@dataclass(frozen=True)
class Host:
    """Where a stage runs.

    Attributes:
        forward, backward, update: seconds of each in a tick.
        variation: standard deviation of these times, as a share of them.
        rate: bytes a second that it can send.
    """

    forward: float
    backward: float = 0.0
    update: float = 0.0
    variation: float = 0.0
    rate: float = math.inf

    @property
    def compute(self) -> float:
        """Seconds of a tick's compute, on average."""
        return self.forward + self.backward + self.update


@dataclass(frozen=True)
class Link:
    """Between two neighbours, alike in both directions.

    Attributes:
        ticks: of the edge (network.edge_ticks).
        delay: seconds from one host to the other.
        jitter: seconds that come on top, on average; exponentially distributed.
        loss: share of TCP segments lost.
        size: bytes of an activation, and of a gradient.
    """

    ticks: int = 1
    delay: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0
    size: int = 0


@dataclass(frozen=True)
class Pace:
    """How the pipeline runs once it is full.

    Attributes:
        tick: seconds of a tick.
        idle: share of the time in which each stage waits.
        mismatch: of each stage, in frames.
    """

    tick: float
    idle: list[float]
    mismatch: list[int]


def simulate(hosts: Sequence[Host], links: Sequence[Link], ticks: int = 400, seed: int = 0) -> Pace:
    """Run so many ticks of a pipeline, and as many before them for warm-up.

    Args:
        hosts: of the stages, from the bottom.
        links: between neighbours, one fewer.
    """
    assert len(links) == len(hosts) - 1
    assert ticks >= 1
    chance = np.random.default_rng(seed)
    stages = [_Stage(host, chance) for host in hosts]
    for lower, upper, link in zip(stages, stages[1:], links, strict=False):
        lower.outputs, upper.gradients = _Way(link, chance), _Way(link, chance)
        upper.inputs, lower.gradients_in = lower.outputs, upper.gradients
    for tick in range(2 * ticks):
        if tick == ticks:
            for stage in stages:
                stage.begin_measuring()
        for stage in stages:
            stage.run(tick)
        for stage in stages:
            stage.send(tick)
    schedule = Schedule(len(hosts), tuple(link.ticks for link in links))
    mismatch = [schedule.mismatch(stage) for stage in range(len(hosts))]
    return Pace(max(stage.seconds for stage in stages) / ticks, [stage.idle for stage in stages], mismatch)


@dataclass
class _Way:
    """One direction of an edge: when its messages were packed, had left and arrived, by sending tick."""

    link: Link
    chance: np.random.Generator
    packed: list[float] = field(default_factory=list)
    heard: list[float] = field(default_factory=list)  # the notices, by receiving tick
    left: list[float] = field(default_factory=list)
    arrived: list[float] = field(default_factory=list)

    def received(self, tick: int, now: float) -> float:
        """When the receiver goes on that asks for the message for `tick` at `now`; it then posts more receives."""
        sent = tick - self.link.ticks
        time = max(now, self.arrived[sent]) if sent >= 0 else now
        heard = time + self._travel(1)
        self.heard.append(max(heard, self.heard[-1]) if self.heard else heard)
        return time

    def room(self, tick: int, now: float) -> float:
        """When the sender has a free packet that asks for one at `now`."""
        before = tick - self.link.ticks - 1
        return max(now, self.left[before]) if before >= 0 else now

    def ready(self, tick: int) -> float:
        """When the message of `tick` may leave: it is packed, and the sender knows that its receive is posted."""
        posted = tick - self.link.ticks + 1
        return max(self.packed[tick], self.heard[posted] if posted >= 0 else 0.0)

    def leave(self, start: float, rate: float) -> float:
        """Let the next message leave from `start` on. Returns when it has left."""
        left = start + self.link.size / rate
        arrived = left + self._travel(max(1, math.ceil(self.link.size / SEGMENT)))
        self.left.append(left)
        self.arrived.append(max(arrived, self.arrived[-1]) if self.arrived else arrived)
        return left

    def _travel(self, segments: int) -> float:
        """Seconds from one host to the other."""
        link, chance = self.link, self.chance
        seconds = link.delay + (chance.exponential(link.jitter) if link.jitter else 0.0)
        while link.loss and (segments := int(chance.binomial(segments, link.loss))):
            seconds += REPEAT * link.delay
        return seconds


class _Stage:
    inputs: _Way | None = None
    outputs: _Way | None = None
    gradients_in: _Way | None = None
    gradients: _Way | None = None

    def __init__(self, host: Host, chance: np.random.Generator) -> None:
        self._host, self._chance = host, chance
        self._now = self._began = self._sends_from = self._busy = 0.0

    def begin_measuring(self) -> None:
        self._began, self._busy = self._now, 0.0

    @property
    def seconds(self) -> float:
        return self._now - self._began

    @property
    def idle(self) -> float:
        return max(0.0, 1 - self._busy / self.seconds) if self.seconds else 0.0

    def run(self, tick: int) -> None:
        """The order of common/rule/tick.py."""
        if self.inputs is not None:
            self._now = self.inputs.received(tick, self._now)
        self._compute(self._host.forward)
        self._pack(self.outputs, tick)
        if self.gradients_in is not None:
            self._now = self.gradients_in.received(tick, self._now)
        self._compute(self._host.backward)
        self._pack(self.gradients, tick)
        self._compute(self._host.update)

    def send(self, tick: int) -> None:
        """Let this tick's messages leave the host one after another."""
        ways = [way for way in (self.outputs, self.gradients) if way is not None]
        for ready, way in sorted(((way.ready(tick), way) for way in ways), key=lambda each: each[0]):
            self._sends_from = way.leave(max(ready, self._sends_from), self._host.rate)

    def _compute(self, seconds: float) -> None:
        varied = seconds
        if self._host.variation:
            varied = max(0.0, self._chance.normal(seconds, self._host.variation * seconds))
        self._now += varied
        self._busy += varied

    def _pack(self, way: _Way | None, tick: int) -> None:
        if way is not None:
            self._now = way.room(tick, self._now)
            way.packed.append(self._now)
