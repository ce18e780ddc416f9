"""What the coordinator and a reader tell each other. Validated strictly, since a socket is not trusted.

coordinator → reader    Feed            which frames it may feed
                        PreviewRequest  of which frames it is to send a part, to be shown
                        Quit            the run is over
reader → coordinator    Fed             which frames it has fed, and what it met
                        PreviewReply    a part of a frame that it has fed
                        Failed          it exits, and why
                        Signalled       its process received a signal that asks the run to stop

What to play is told once, by a call (`ReaderPlan`).
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, TypeAdapter

from common.config.settings import Config
from common.errors import PeerError
from common.messages.encoding import OTHER_SENDER, encode
from common.messages.stage_calls import Addresses
from common.messages.strict import Count, Failed, Seconds, Signalled, StrictMessage, decoded
from common.rule.label_form import LabelForm
from coordinator.video.files.clips import Clip
from coordinator.video.preview import Pictures, Preview, reduced_shape
from coordinator.video.stream import Places

READER_LINE = "reader"  # key in the launcher's store of the address at which the coordinator awaits a reader

_MOST_SHOWN = 256  # frames: one for each stage


@dataclass(frozen=True)
class ReaderPlan:
    """What a reader plays, and for whom.

    Attributes:
        config: of the whole run.
        clips: all training clips; they are not probed again.
        form: of their labels.
        places: where its slots start; None: at the beginning.
        addresses: of the stages of its replicas, replica by replica.
        first: the number of the next frame.
    """

    config: Config
    clips: list[Clip]
    form: LabelForm
    places: Places | None
    addresses: list[Addresses]
    first: int


class Feed(StrictMessage):
    """Feed all frames before `end`."""

    kind: Literal["feed"] = "feed"
    end: Count


class PreviewRequest(StrictMessage):
    """Send a part of these frames, which are not fed yet; `rows` and `every` as in coordinator/video/preview.py."""

    kind: Literal["preview_request"] = "preview_request"
    frames: Annotated[list[Count], Field(min_length=1, max_length=_MOST_SHOWN)]
    rows: Annotated[int, Field(gt=0, lt=256)]
    every: Annotated[int, Field(gt=0, lt=1 << 16)]


class Quit(StrictMessage):
    """Exit with `code`."""

    kind: Literal["quit"] = "quit"
    code: Annotated[int, Field(ge=0, lt=256)]


class Fed(StrictMessage):
    """All frames before `frame` were fed, and the next one is decoded.

    Attributes:
        places: int64 [slots, 2], the places of the reader's slots before that frame.
        frame_bytes, target_bytes: bytes sent so far.
        read_seconds, feed_seconds: time spent so far waiting for decoded frames, and passing them on.
        mishaps: clips skipped, broken, damaged and short so far.
        reasons: of the mishaps since the last message.
        warnings: for the user, since the last message.
        data_error: why there are no more frames; the last ones are then fed again.
    """

    kind: Literal["fed"] = "fed"
    frame: Count
    places: bytes
    frame_bytes: Count = 0
    target_bytes: Count = 0
    read_seconds: Seconds = 0.0
    feed_seconds: Seconds = 0.0
    mishaps: list[Count] = Field([0, 0, 0, 0], min_length=4, max_length=4)
    reasons: list[str] = Field([])
    warnings: list[str] = Field([])
    data_error: str | None = None


class PreviewReply(StrictMessage):
    """A part of a frame, as bytes: see `decode_preview`."""

    kind: Literal["preview_reply"] = "preview_reply"
    frame: Count
    pictures: bytes
    labels: bytes
    targets: bytes | None
    known: list[bool]


Message = Feed | PreviewRequest | Quit | Fed | PreviewReply | Failed | Signalled

_ANY: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="kind")])


def encode_message(message: Message) -> bytes:
    """Encode a message as msgpack."""
    return encode(message.model_dump())


def decode_message(data: bytes, attempt: int) -> Message:
    """Decode a message.

    Raises:
        OtherAttemptError: it is from another attempt.
        PeerError: it is not a valid message.
    """
    return decoded(_ANY, data, attempt, "a reader's message")


def encode_places(places: Places) -> bytes:
    """Encode the places of slots."""
    return np.array(places, "<i8").tobytes()


def decode_places(data: bytes, slots: int) -> Places:
    """Decode the places of so many slots. Raises PeerError if there are more or fewer."""
    if len(data) != 16 * slots:
        raise PeerError(f"a reader's message has {len(data)} bytes of places for {slots} slots: {OTHER_SENDER}")
    return [(int(entry), int(done)) for entry, done in np.frombuffer(data, "<i8").reshape(slots, 2)]


def encode_preview(seen: Preview, form: LabelForm, attempt: int) -> PreviewReply:
    """The message with a part of a frame."""
    pictures, targets = (None if own is None else _to_bytes(own) for own in (seen.pictures, seen.targets))
    assert pictures is not None
    labels = form.to_bytes(seen.labels)
    return PreviewReply(
        attempt=attempt, frame=seen.frame, pictures=pictures, labels=labels, targets=targets, known=seen.known
    )


def decode_preview(shown: PreviewReply, asked: PreviewRequest, config: Config, form: LabelForm) -> Preview:
    """The part of a frame in a message. Raises PeerError if it is not what `asked` asked for."""
    shape, kind = reduced_shape(config.frame_shape, asked.rows, asked.every), np.dtype(config.data.pixel_type)

    def pictures(data: bytes) -> Pictures:
        return np.frombuffer(data, kind.newbyteorder("<")).astype(kind, copy=False).reshape(shape)

    try:
        labels = form.from_bytes(shown.labels, asked.rows)
        targets = None if shown.targets is None else pictures(shown.targets)
        seen = Preview(shown.frame, pictures(shown.pictures), labels, targets, shown.known)
    except ValueError as error:
        raise PeerError(f"a reader's pictures are malformed ({error}): {OTHER_SENDER}") from None
    if len(seen.known) != asked.rows:
        raise PeerError(f"a reader's pictures are malformed ({len(seen.known)} rows): {OTHER_SENDER}")
    return seen


def _to_bytes(pictures: Pictures) -> bytes:
    return pictures.astype(pictures.dtype.newbyteorder("<"), copy=False).tobytes()
