"""Ends a stage worker whose coordinator is gone: it would wait for it forever."""

import os
import threading
import time
from collections.abc import Callable

import zmq
from zmq.utils.monitor import recv_monitor_message

from common.errors import PeerError
from common.processes.membership import Membership
from common.processes.output import exit_now, print_error

_LAST_SNAPSHOT = 20.0  # seconds to keep the state when the coordinator is lost; the launcher kills after 30
_MOMENT = 0.2  # seconds in which the loss of another host is noticed by all its connections


class CoordinatorWatch:
    """Watches the connection to the coordinator, in a thread.

    Attributes:
        verbose: whether to print an error when the coordinator is lost; by default one stage per host does.
        run_ends: whether the coordinator has said that it exits, and why: then a lost peer is no news.
        on_lost: called when the coordinator is lost, in another thread; the process then has 20 s to end itself.
    """

    def __init__(self, me: Membership, socket: "zmq.Socket[bytes]") -> None:
        """`socket`: the connection, before it is made. One stage of a process is enough to watch it."""
        self.verbose, self.run_ends = me.local_process == 0, False
        self.on_lost: Callable[[], None] | None = None
        self._stage, self._socket, self._watches = me.stage, socket, me.leads
        elsewhere = me.coordinator.host != me.own.host
        self._coordinators_host = me.coordinator.address if elsewhere else None
        self._exit_expected = False
        self._disconnected = threading.Event()
        if self._watches:
            monitor = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED | zmq.EVENT_MONITOR_STOPPED)
            threading.Thread(target=self._run, args=(monitor,), name="watch-coordinator", daemon=True).start()

    def allow_exit(self) -> None:
        """From now on, do not treat a disconnect of the coordinator as a failure."""
        self._exit_expected = True

    def await_exit(self, seconds: float) -> None:
        """Wait at most `seconds` for the coordinator to disconnect, so that it gets the answers to its last calls."""
        self._disconnected.wait(seconds)

    def stop(self) -> bool:
        """Stop watching: from here on the calling thread ends the process. Returns whether the coordinator is gone."""
        announced, self._exit_expected = self._exit_expected, True
        if self._disconnected.wait(_MOMENT if self._watches and self._coordinators_host else 0.0):
            if self._coordinators_host and not announced:
                self._say_that_it_is_gone()
            return True
        if self._watches:
            self._socket.disable_monitor()
        return False

    def _run(self, monitor: "zmq.Socket[bytes]") -> None:
        try:
            recv_monitor_message(monitor)
        except zmq.ContextTerminated:
            pass  # closed on purpose
        finally:
            monitor.close(0)
            self._disconnected.set()
        if self._exit_expected:
            return
        if self.on_lost is not None:
            self.on_lost()
            time.sleep(_LAST_SNAPSHOT)
        self._say_that_it_is_gone()
        exit_now(PeerError.code)

    def _say_that_it_is_gone(self) -> None:
        if not self.verbose:
            return
        text = f"stage {self._stage} (pid {os.getpid()}): the coordinator is gone, so stages here exit too"
        if self._coordinators_host:
            text += (
                f". If its host, {self._coordinators_host}, is lost for good, start the run again on others with "
                f"--resume and its directory: it continues from its last checkpoint"
            )
        print_error(text)
