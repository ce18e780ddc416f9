"""Signals that wait until the launcher takes them, so that none interrupts it."""

import signal
from types import TracebackType
from typing import Self

from common.processes.lifecycle import stop_signals


class HeldSignals:
    """Holds back signals to this process that ask it to stop or tell that a child has changed."""

    def __enter__(self) -> Self:
        self._numbers = {signal.SIGCHLD, signal.SIGQUIT, *stop_signals()}
        self._before = signal.pthread_sigmask(signal.SIG_BLOCK, self._numbers)
        return self

    def take(self, seconds: float) -> int:
        """Wait at most `seconds` for a signal. Returns the number of one that asks to stop; 0 for any other or none."""
        received = signal.sigtimedwait(self._numbers, seconds)
        return 0 if received is None or received.si_signo == signal.SIGCHLD else received.si_signo

    def release(self) -> None:
        """Let signals through again; also called in a fork, which inherits that they are held back."""
        signal.pthread_sigmask(signal.SIG_SETMASK, self._before)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        while self.take(0):  # repetitions, such as from the terminal and from a scheduler
            pass
        self.release()
