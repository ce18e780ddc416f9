"""Times of a GPU's passes, by events of a fake stream."""

from stage_worker.reporting.gpu_clock import GpuClock


class Stream:
    """A GPU of which each pass takes a millisecond more than the one before."""

    def __init__(self) -> None:
        self.now, self.passes, self.synchronised = 0.0, 0, 0

    def event(self) -> "Event":
        return Event(self)


class Event:
    def __init__(self, stream: Stream) -> None:
        self._stream, self.at = stream, 0.0

    def record(self) -> None:
        self.at = self._stream.now

    def synchronize(self) -> None:
        self._stream.synchronised += 1

    def elapsed_time(self, end_event: "Event", /) -> float:
        return end_event.at - self.at


def run(clock: GpuClock, stream: Stream, passes: int) -> None:
    for _ in range(passes):
        clock.begin()
        stream.passes += 1
        stream.now += stream.passes  # ms
        clock.end()
        stream.now += 100.0  # between passes


def test_passes_are_added_up_and_read_with_one_wait() -> None:
    stream = Stream()
    clock = GpuClock(stream.event, 8)
    assert clock.seconds() == 0
    run(clock, stream, 4)
    assert clock.seconds() == (1 + 2 + 3 + 4) * 1e-3
    assert stream.synchronised == 1
    clock.clear()
    run(clock, stream, 1)
    assert clock.seconds() == 5e-3


def test_passes_beyond_the_samples_count_as_much_as_the_timed_ones() -> None:
    stream = Stream()
    clock = GpuClock(stream.event, 2)
    run(clock, stream, 6)
    assert clock.seconds() == (1 + 2) * 1e-3 * 3
