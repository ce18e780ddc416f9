"""Messages over ZeroMQ, in msgpack, read strictly: the envelope of a frame batch, reports to the coordinator."""

from typing import Any

import msgpack
import numpy as np

from common.errors import PeerError
from common.handover import SLOTS

SMALLEST_BUFFER = 1 << 18  # bytes of a frame socket's kernel buffer; with less, TCP stalls on loopback's large segments


def encode_frames(
    epoch: int,
    phase: int,
    frame: int,
    last: bool,
    clips: np.ndarray[Any, Any],
    labels: np.ndarray[Any, Any],
    slot: int | None = None,
) -> bytes:
    """The envelope of a frame batch; the raw uint8 frames follow as a message part of their own.

    `epoch` is the attempt's (common/group.py), by which what a process of an earlier one still sends is known. With a
    `slot` of shared memory (common/handover.py) the frames lie there, and nothing follows.
    """
    envelope = {
        "epoch": epoch,
        "phase": phase,
        "frame": frame,
        "last": last,
        "slot": slot,
        "clips": clips.astype("<i8", copy=False).tobytes(),
        "labels": labels.astype("<i8", copy=False).tobytes(),
    }
    return msgpack.packb(envelope)


class OtherAttemptError(PeerError):
    """What a process of an earlier attempt still sends. It is not to be heard, whatever it says."""


def check_epoch(message: dict[str, Any], epoch: int) -> None:
    """Raises OtherAttemptError for a message that names another attempt; what names none is for others to refuse."""
    named = message.get("epoch")
    if type(named) is int and named != epoch:
        raise OtherAttemptError(f"a message of attempt {named} came in attempt {epoch}")


class Envelope:
    """A decoded, checked frame envelope."""

    __slots__ = ("clips", "epoch", "frame", "labels", "last", "phase", "slot")

    def __init__(self, data: bytes | memoryview, rows: int, epoch: int) -> None:
        """Raises OtherAttemptError for one of another attempt, PeerError for one that is not of `rows` rows."""
        fields = decode(data)
        check_epoch(fields, epoch)
        try:
            self.epoch, self.phase = fields["epoch"], fields["phase"]
            self.frame, self.last, self.slot = fields["frame"], fields["last"], fields["slot"]
            self.clips = np.frombuffer(fields["clips"], dtype="<i8")
            self.labels = np.frombuffer(fields["labels"], dtype="<i8")
        except (KeyError, TypeError, ValueError) as error:
            raise PeerError(f"a frame's envelope is malformed ({error!r}): is something else sending here?") from error
        if (
            not type(self.epoch) is type(self.phase) is type(self.frame) is int
            or type(self.last) is not bool
            or not (self.slot is None or (type(self.slot) is int and 0 <= self.slot < SLOTS))
            or not len(self.clips) == len(self.labels) == rows
        ):
            raise PeerError(
                f"a frame's envelope is malformed: expected {rows} clips and labels and a slot below {SLOTS} or none, "
                f"got {len(self.clips)} and {self.slot!r:.20}"
            )


def encode(message: dict[str, Any]) -> bytes:
    """A report, as msgpack."""
    return msgpack.packb(message)


def decode(data: bytes | memoryview) -> dict[str, Any]:
    """A msgpack map with string keys, decoded strictly. Raises PeerError for anything else."""
    size = len(data)
    try:
        message = msgpack.unpackb(data, strict_map_key=True)
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise PeerError(
            f"a message of {size} bytes is not msgpack ({error}): is something else sending here?"
        ) from error
    if not isinstance(message, dict) or not all(isinstance(key, str) for key in message):
        raise PeerError(f"a message of {size} bytes is no map with names for keys: is something else sending here?")
    return message
