"""The signals that ask a process of the run to stop: held while it starts, noted once it can stop in order."""

import signal
from collections.abc import Callable
from types import FrameType

_MOST_HELD = 15  # seconds from a held signal to `note_stop_signals`: joining takes one or two
_held: list[int] = []  # signals


def hold_stop_signals() -> None:
    """Hold the signals that ask this process to stop until it calls `note_stop_signals`; else they would end it.

    If it does not get so far within some seconds of one, for example because it waits for a peer, it ends then.
    """

    def hold(number: int, frame: FrameType | None) -> None:
        _held.append(number)
        signal.alarm(_MOST_HELD)

    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    for number in stop_signals():
        signal.signal(number, hold)


def holds_stop_signals() -> bool:
    """Whether the signals that ask this process to stop do not end it."""
    return signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL


def note_stop_signals(note: Callable[[int, FrameType | None], None]) -> None:
    """Call `note` for each signal that asks this process to stop, which then goes on; without a frame for held ones."""
    for number in stop_signals():
        signal.signal(number, note)
    signal.alarm(0)
    while _held:
        note(_held.pop(0), None)


def stop_signals() -> list[signal.Signals]:
    """The signals that ask a run to stop. SIGHUP is left out if it is ignored, as under nohup."""
    hangs_up = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    return [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hangs_up else [])]
