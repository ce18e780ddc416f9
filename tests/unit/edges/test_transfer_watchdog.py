"""A transfer that nobody waits for on the host is noticed when it does not end."""

import time
from queue import Empty, SimpleQueue

import pytest

from common.errors import PeerError
from stage_worker.edges.transfer_watchdog import TransferWatchdog, Watch


class Transfer:
    def __init__(self, done: bool = False) -> None:
        self.done = done

    def is_completed(self) -> bool:
        return self.done


def test_only_a_transfer_past_its_deadline_is_an_error() -> None:
    watch, transfer = Watch("stage 1", 2, 0.02), Transfer()
    watch.add(transfer, 7, "receiving from")
    assert watch.overdue() is None
    time.sleep(0.03)
    error = watch.overdue()
    assert "stage 1, tick 7, receiving from stage 2: no progress for 0.02 s" in str(error)
    transfer.done = True
    assert watch.overdue() is None


def test_transfers_that_are_done_are_forgotten_in_order() -> None:
    watch, transfers = Watch("stage 1", 2, 60), [Transfer(True), Transfer(True), Transfer(), Transfer(True)]
    for tick, transfer in enumerate(transfers):
        watch.add(transfer, tick, "sending to")
    assert watch.overdue() is None
    assert [entry[1] for entry in watch._pending] == [2, 3]


def test_the_thread_reports_the_first_one_once() -> None:
    errors: SimpleQueue[PeerError] = SimpleQueue()
    watchdog = TransferWatchdog(errors.put)
    watchdog.watch("stage 1", 0, 60).add(Transfer(), 3, "sending to")
    watchdog.watch("stage 1", 2, 0.01).add(Transfer(), 4, "receiving from")
    assert "tick 4, receiving from stage 2" in str(errors.get(timeout=10))
    with pytest.raises(Empty):
        errors.get(timeout=0.6)
    watchdog.close()
