"""Signals that wait until the launcher takes them, so that none interrupts it."""

import signal
from types import TracebackType
from typing import Self

from common.processes.stop_signals import stop_signals


class HeldSignals:
    """Holds back signals to this process that ask it to stop or tell that a child has changed."""

    def __enter__(self) -> Self:
        self._stops = {signal.SIGQUIT, *stop_signals()}
        self._before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, *self._stops})
        return self

    def take(self, seconds: float) -> int:
        """Wait at most `seconds` until a child has changed. Returns a signal that asks to stop; 0 if there is none."""
        if not signal.sigpending() & self._stops:
            # its result is not looked at: Python makes one up if SIGCONT comes after the time is over
            signal.sigtimedwait({signal.SIGCHLD}, seconds)
        asked = signal.sigpending() & self._stops
        return int(signal.sigwait(asked)) if asked else 0

    def release(self) -> None:
        """Let signals through again; also called in a fork, which inherits that they are held back."""
        signal.pthread_sigmask(signal.SIG_SETMASK, self._before)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        while self.take(0):  # repetitions, such as from the terminal and from a scheduler
            pass
        self.release()
