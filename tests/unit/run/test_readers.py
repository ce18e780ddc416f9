"""The coordinator's side of the readers: pace, places, mishaps, and losses that are named."""

import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from torch._C._distributed_c10d import HashStore

from common.errors import PeerError, SidewaysError
from common.messages.strict import Failed, Signalled
from common.processes.membership import Member, Membership
from common.rule.label_form import ONE_CLASS
from coordinator.reader.coordinator_line import CoordinatorGoneError, CoordinatorLine
from coordinator.reader.messages import Fed, Feed, PreviewReply, PreviewRequest, Quit, encode_places, encode_preview
from coordinator.run import readers as module
from coordinator.run.readers import Readers
from coordinator.video.preview import Preview
from tests.support.page import config_of
from tests.support.waiting import wait_until

MEMBERS = (Member("coordinator"), Member("stage"), Member("stage"), Member("reader"), Member("reader"))


class Run:
    """The coordinator's side and two readers' connections, of slots 0 and 1, without processes."""

    def __init__(self) -> None:
        store, self.signals = HashStore(), list[int]()
        members = [Membership(rank, MEMBERS, store).arranged(2) for rank in range(5)]
        self.readers = Readers(members[0], 1.0, self.signals.append)
        self.lines = [CoordinatorLine(me) for me in members[3:]]
        self.readers._slots = 1

    def report(self, reader: int, frame: int, **more: object) -> None:
        self.lines[reader].send(
            Fed(attempt=0, frame=frame, places=encode_places([(reader, frame)]), **more)  # type: ignore[arg-type]
        )

    def poll_until(self, condition: Callable[[], object]) -> None:
        def met() -> object:
            self.readers.poll()
            return condition()

        wait_until(met, 10)

    def report_all(self, frame: int) -> None:
        for reader in range(2):
            self.report(reader, frame)

    def close(self) -> None:
        for line in self.lines:
            line.close()
        for handle in self.readers.handles:
            handle.close()


@pytest.fixture
def run() -> Iterator[Run]:
    run = Run()
    run.report_all(0)
    run.readers.prime()
    yield run
    run.close()


def test_readers_are_told_each_frame_and_may_be_a_few_behind(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AHEAD", 2)
    for tick in range(2):
        run.readers.push(tick)
    timer = threading.Timer(0.3, run.report_all, (1,))
    timer.start()
    run.readers.push(2)  # waits for the reports
    timer.join()
    received = [run.lines[0].receive(1000) for _ in range(3)]
    assert received == [Feed(attempt=0, end=end) for end in (1, 2, 3)]
    run.report(0, 3)
    with pytest.raises(PeerError, match="reader 1 has fed no frame 1 for 1 s"):
        run.readers.push(3)


def test_places_are_those_before_the_next_frame(run: Run) -> None:
    run.readers.push(0)
    run.report(1, 1)
    run.poll_until(lambda: run.readers.places(wait=False) == [(0, 0), (1, 1)])
    run.report(0, 1)
    assert run.readers.places() == [(0, 1), (1, 1)]


def test_mishaps_warnings_errors_and_signals_are_passed_on(run: Run) -> None:
    errors, warnings = run.readers.handles[1].errors, list[str]()
    errors.warn = warnings.append
    run.report(1, 1, mishaps=[2, 1, 0, 3], reasons=["bad.mp4: empty"], warnings=["slow disk"], data_error="no more")
    run.lines[0].send(Signalled(attempt=0, signal=15))
    run.poll_until(lambda: run.readers.error is not None and run.signals)
    assert (errors.skipped, errors.broken, errors.damaged, errors.short) == (2, 1, 0, 3)
    assert errors.reasons == ["bad.mp4: empty"]
    assert warnings == ["slow disk"]
    assert str(run.readers.error) == "no more"
    assert run.signals == [15]


def test_the_first_reader_is_asked_for_frames_that_are_to_be_shown(run: Run) -> None:
    config, shown = config_of(replicas=2, data={"train": ".", "slots": 2, "size": 32}), list[Preview]()
    run.readers._plays = config, ONE_CLASS
    run.readers.request_previews([5, 6], 1, 2, shown.append)
    assert run.lines[0].receive(1000) == PreviewRequest(attempt=0, frames=[5, 6], rows=1, every=2)
    pictures = np.arange(3 * 16 * 16, dtype=np.uint8).reshape(1, 3, 16, 16)
    seen = Preview(5, pictures, np.array([2]), None, [True])
    run.lines[0].send(encode_preview(seen, ONE_CLASS, 0))
    run.poll_until(lambda: shown)
    assert (shown[0].frame, shown[0].labels.tolist(), shown[0].targets) == (5, [2], None)
    assert np.array_equal(shown[0].pictures, pictures)
    run.lines[0].send(PreviewReply(attempt=0, frame=6, pictures=b"1", labels=bytes(8), targets=None, known=[True]))
    with pytest.raises(PeerError, match=r"a reader.s pictures are malformed .* is another program sending"):
        run.poll_until(lambda: False)


def test_a_lost_reader_is_named_and_what_it_said_comes_first(run: Run) -> None:
    run.lines[0].send(Failed(attempt=0, message="reader 0: no memory", code=1))
    run.lines[0].close()
    with pytest.raises(SidewaysError, match="reader 0: no memory"):
        run.poll_until(lambda: False)
    other = Run()
    other.lines[1].send(Signalled(attempt=0, signal=15))
    other.poll_until(lambda: other.signals)
    other.lines[1].close()
    with pytest.raises(PeerError, match=r"reader 1 on 127.0.0.1 disconnected without an error: it was killed"):
        other.poll_until(lambda: False)
    other.close()


def test_a_reader_notices_that_the_coordinator_is_gone() -> None:
    run = Run()
    run.report(0, 0)
    run.poll_until(lambda: run.readers.handles[0].fed)
    run.readers.quit(3)
    assert run.lines[0].receive(1000) == Quit(attempt=0, code=3)
    run.readers.handles[0].close()
    with pytest.raises(CoordinatorGoneError):
        wait_until(lambda: run.lines[0].receive(10) or False)
    run.close()
