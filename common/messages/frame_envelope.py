"""The envelope of a frame batch: a msgpack map sent over ZeroMQ before the raw frames."""

from typing import Any

import msgpack
import numpy as np

from common.errors import PeerError
from common.messages.encoding import OTHER_SENDER, check_attempt, decode
from common.rule.label_form import ONE_CLASS, LabelForm

TRAINING = 0  # phase; evaluations are numbered from 1
SMALLEST_BUFFER = 1 << 18  # bytes of a frame socket's kernel buffer; with less, TCP stalls on loopback's large segments


def encode_frames(
    attempt: int,
    phase: int,
    frame: int,
    last: bool,
    clips: np.ndarray[Any, Any],
    labels: np.ndarray[Any, Any],
    place: tuple[int, int] | None = None,
    form: LabelForm = ONE_CLASS,
    colours: np.ndarray[Any, Any] | None = None,
) -> bytes:
    """Encode the envelope of a frame batch; the raw frames (uint8, or uint16) follow as a separate message part.

    Args:
        attempt: Membership.attempt of the sender, by which messages of an earlier attempt are recognised.
        phase: `TRAINING`, or the number of an evaluation.
        frame: number of the batch in its phase.
        last: whether this is the last batch of the phase.
        clips: int64 [slots].
        labels: int64 [slots], or float32 [slots, width].
        place: where the frames lie in shared memory (common/shared_memory/shared_frames.py); then no part follows.
        form: of the labels.
        colours: float64 [slots, 4], by which the frames are to be jittered (common/rule/colour_jitter.py), if at all.
    """
    envelope = {
        "attempt": attempt,
        "phase": phase,
        "frame": frame,
        "last": last,
        "place": place,
        "clips": clips.astype("<i8", copy=False).tobytes(),
        "labels": form.to_bytes(labels),
        "colours": None if colours is None else colours.astype("<f8", copy=False).tobytes(),
    }
    return msgpack.packb(envelope)


class Envelope:
    """A decoded and validated frame envelope. Attributes as in `encode_frames`."""

    __slots__ = ("attempt", "clips", "colours", "frame", "labels", "last", "phase", "place")

    def __init__(self, data: bytes | memoryview, rows: int, attempt: int, form: LabelForm = ONE_CLASS) -> None:
        """Decode an envelope.

        Raises:
            OtherAttemptError: it is from another attempt.
            PeerError: it is malformed or does not have `rows` rows, with labels of the given form.
        """
        fields = decode(data)
        check_attempt(fields, attempt)
        try:
            self.attempt, self.phase = fields["attempt"], fields["phase"]
            self.frame, self.last = fields["frame"], fields["last"]
            self.place = _place(fields["place"])
            self.clips = np.frombuffer(fields["clips"], dtype="<i8")
            self.labels = form.from_bytes(fields["labels"], rows)
            colours = fields["colours"]
            self.colours = None if colours is None else np.frombuffer(colours, "<f8").reshape(rows, 4)
        except (KeyError, TypeError, ValueError) as error:
            raise PeerError(f"a frame's envelope is malformed ({error!r}): {OTHER_SENDER}") from error
        if (
            not type(self.attempt) is type(self.phase) is type(self.frame) is int
            or type(self.last) is not bool
            or len(self.clips) != rows
        ):
            raise PeerError(f"a frame's envelope is malformed: expected {rows} clips, got {len(self.clips)}")


def _place(value: object) -> tuple[int, int] | None:
    """Raises ValueError if it is none."""
    if value is None:
        return None
    match value:
        case [int(memory), int(offset)] if type(memory) is type(offset) is int and memory >= 0 and offset >= 0:
            return memory, offset
    raise ValueError(f"frames cannot lie at {value!r:.20}")
