"""A reader's connection to the coordinator."""

import time
from contextlib import suppress

import zmq

from common.errors import PeerError
from common.messages.encoding import OtherAttemptError
from common.processes.membership import Membership
from coordinator.reader.messages import READER_LINE, Message, decode_message, encode_message

_LINGER = 2000  # ms that the last message may take


class CoordinatorLine:
    """Sends and receives messages; notices when the coordinator is gone."""

    def __init__(self, me: Membership) -> None:
        """Connect. Raises PeerError if the coordinator is not there."""
        self.attempt = me.attempt
        self._context = zmq.Context()  # its own, so that closing it waits only for these messages
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        self._monitor: zmq.Socket[bytes] = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        me.connect(self._socket, me.fetch(f"{READER_LINE}/{me.reader}"), to=me.coordinator)

    def send(self, message: Message) -> None:
        """Send a message, without waiting."""
        with suppress(zmq.Again):  # only if the coordinator is gone
            self._socket.send(encode_message(message), zmq.NOBLOCK)

    def receive(self, milliseconds: int) -> Message | None:
        """The next message; None if there is none in time. Raises PeerError if the coordinator is gone."""
        end = time.monotonic() + milliseconds / 1000
        while self._socket.poll(max(0, round(1000 * (end - time.monotonic())))):
            try:
                return decode_message(self._socket.recv(), self.attempt)
            except OtherAttemptError:
                continue
        self.check()
        return None

    def check(self) -> None:
        """Raise PeerError if the coordinator is gone."""
        if int(self._monitor.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            raise CoordinatorGoneError("the coordinator is gone, so this reader exits too")

    def close(self) -> None:
        """Close the connection once what was sent is delivered, at most two seconds later."""
        if self._socket.closed:
            return
        self._socket.disable_monitor()
        self._monitor.close(0)
        self._socket.close(_LINGER)
        self._context.term()


class CoordinatorGoneError(PeerError):
    """The coordinator has exited, so no error can be reported."""
