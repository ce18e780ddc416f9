"""The clock of a tick's work: sums of all ticks, spans of recorded ticks only."""

from common.telemetry.spans import COMPUTE, Kind, Spans, WorkClock, clock


def run(work: WorkClock, first: int, last: int) -> None:
    """Run ticks with one piece of work in each, one after each, and one after the phase."""
    for k in range(first, last):
        work.begin_tick(k)
        work.add(Kind.FORWARD, clock())
        work.end_tick()
        work.add(Kind.REPORT, clock())
    work.end_phase()
    work.add(Kind.FORWARD, clock())


def test_a_clock_records_exactly_the_requested_ticks() -> None:
    work, spans = WorkClock(), Spans(4, 3, 8)
    work.record(spans)
    run(work, 0, 6)
    assert not spans.done.is_set()
    run(work, 6, 9)
    assert spans.done.is_set()
    each = (Kind.FORWARD, Kind.TICK, Kind.REPORT)
    assert [tuple(row) for row in spans.rows()[:, :2].tolist()] == [(kind, k) for k in (4, 5, 6) for kind in each]
    assert (spans.rows()[:, 2] <= spans.rows()[:, 3]).all()


def test_the_last_tick_of_a_phase_ends_the_recording() -> None:
    work, spans = WorkClock(), Spans(4, 3, 8)
    work.record(spans)
    run(work, 0, 7)
    assert spans.done.is_set()


def test_a_full_recording_drops_further_spans() -> None:
    work, spans = WorkClock(), Spans(0, 2, 1)
    work.record(spans)
    run(work, 0, 2)
    assert spans.rows()[:, 0].tolist() == [Kind.FORWARD, Kind.TICK]


def test_a_new_recording_ends_the_previous_one() -> None:
    work, first, second = WorkClock(), Spans(0, 9, 9), Spans(1, 1, 9)
    work.record(first)
    run(work, 0, 1)
    work.record(second)
    assert first.done.is_set()
    run(work, 1, 3)
    assert first.rows()[:, 1].tolist() == [0] * 3
    assert second.rows()[:, 1].tolist() == [1] * 3


def test_sums_grow_until_they_are_cleared() -> None:
    work = WorkClock()
    start = clock()
    for kind in (Kind.FORWARD, Kind.BACKWARD, Kind.REPORT):
        work.add(kind, start - 1_000_000_000)
    took = (clock() - start) * 1e-9
    assert 2 <= work.seconds(COMPUTE) <= 2 + 2 * took
    work.add(Kind.UPDATE, start - 1_000_000_000)
    work.add(Kind.WAIT_REPLICAS, start - 500_000_000)  # half of the update
    assert 2.5 <= work.compute_seconds() <= 2.5 + 4 * took + 1e-3
    work.clear()
    assert work.seconds(Kind) == 0
