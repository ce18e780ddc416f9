"""`make fuzz`: feeds whatever reads bytes from a socket or a user's file from a coverage-guided fuzzer (atheris).

Videos are left out: FFmpeg reads those.

python -m tests.fuzz [CORPUS] [libFuzzer's options, such as -max_total_time=3600]

Any exception but a SidewaysError ends it with a traceback, and writes the bytes to a file.
"""

import io
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["common", "coordinator", "csv", "json", "msgpack", "pydantic", "tarfile"]):
    import tarfile

    import msgpack
    import numpy as np

    from common.config.settings import Data
    from common.errors import SidewaysError
    from common.messages import frame_envelope as wire
    from common.messages import stage_report as report
    from common.rule.label_form import LabelForm
    from common.run_registry import records as runstate
    from coordinator.monitor.run_totals import RunTotals, StageTotals, metric_line
    from coordinator.reader import messages
    from coordinator.video.files import label_tables, segments, shards
    from coordinator.video.files.listing import lines_of
    from coordinator.video.files.shard_source import Shard

_RECORDS = (runstate.Command, runstate.Answer, runstate.Owner, runstate.Status)
_FILE = Path(tempfile.mkstemp()[1])  # a list of clips
_DATA = Data(train="videos")
_NUMBERS = LabelForm(4)
_SHARD = Shard("fuzzed.tar", 0, "")


def one(data: bytes) -> None:
    """Decode one input. The first byte selects the decoder."""
    if data:
        with suppress(SidewaysError):
            _READERS[data[0] % len(_READERS)](data[1:])


def _envelope(data: bytes, form: LabelForm) -> None:
    envelope = wire.Envelope(data, 3, 1, form)
    assert len(envelope.clips) == len(envelope.labels) == 3


def _message(data: bytes) -> None:
    message = messages.decode_message(data, 1)
    assert messages.decode_message(messages.encode_message(message), 1) == message


def _record(data: bytes, kind: type[runstate.Record]) -> None:
    record = runstate.decode(kind, data)
    assert runstate.decode(type(record), record.encode()) == record


def _shard(data: bytes) -> None:
    found = shards.read_members(_SHARD, io.BytesIO(data), len(data), lambda offset, size: "unread", {".mp4"})
    assert all(0 <= sample.offset <= sample.offset + sample.size <= len(data) for sample in found.samples)


def _list(data: bytes, of_segments: bool) -> None:
    _FILE.write_bytes(data)
    if of_segments:
        segments.read_segments(lines_of(_FILE), _FILE, _DATA, labelled=True)
    else:
        label_tables.read_table(_FILE, of_frames=True, with_path=True)


def _reported(data: bytes) -> None:
    """Every decoded report can be added to the totals."""
    decoded = report.decode_report(data, 3, 1)
    if isinstance(decoded, report.Progress):
        totals = RunTotals([StageTotals() for _ in range(3)], 4)
        totals.add(decoded)
        metric_line(decoded)
        assert totals.loss is None or decoded.loss is not None


_READERS: list[Callable[[bytes], object]] = [
    partial(_envelope, form=LabelForm()),
    partial(_envelope, form=_NUMBERS),
    _reported,
    runstate.decode_line,
    *(partial(_record, kind=kind) for kind in _RECORDS),
    _message,
    _shard,
    partial(_list, of_segments=True),
    partial(_list, of_segments=False),
]


def _tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in {"1.mp4": b"video", "1.json": b'{"label": [1, 2]}', "2.mp4": b"", "2.cls": b"7"}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


def _seeds(folder: Path) -> None:
    """Write valid inputs to start from."""
    frames = wire.encode_frames(1, 0, 3, False, np.arange(3), np.arange(3))
    numbers = wire.encode_frames(1, 0, 3, False, np.arange(3), np.zeros((3, 4), np.float32), form=_NUMBERS)
    progress = dict.fromkeys(("stage", "dropped", "tick", "rows", "gated", "peak_memory_bytes"), 0)
    progress |= dict.fromkeys(("attempt", "bytes_forward", "bytes_backward"), 0) | {"ticks": 2, "attempt": 1}
    times = dict.fromkeys(("compute", "receive_wait", "send_wait", "data_wait"), 0.5)
    seconds = {f"{name}_seconds": value for name, value in times.items()} | {"seconds": 2.0, "rate": 0.1}
    fields = {**progress, **seconds, "kind": "progress", "gradient_norm": 0.5, "loss": 1.5, "counted": 2}
    owner = runstate.Owner(host="here", directory="/runs", pid=1)
    status = runstate.Status(
        name="it", owner=owner, state="running", algorithm="sideways", started=1, updated=2, tick=3, planned=4
    )
    command = runstate.Command(id="0" * 32, do="set", lr=0.1)
    answer = runstate.Answer(state="done", text="so it is")
    reports = [fields, {"kind": "failed", "attempt": 1, "stage": 0, "dropped": 0, "message": "why", "code": 1}]
    fed = messages.Fed(attempt=1, frame=3, places=messages.encode_places([(7, 2)]))
    line = runstate.encode_line({"kind": "progress", "tick": 3})
    records = [each.encode() for each in (command, answer, owner, status)]
    sent = [messages.encode_message(each) for each in (fed, messages.Feed(attempt=1, end=3))]
    lists = b"clips/a b.mp4 0:01.5 2:30 run", b'path,start,end,label\n"a, b.mp4",1,2,run\n'
    by_reader: list[list[bytes]] = [[frames], [numbers], [msgpack.packb(each) for each in reports], [line]]
    by_reader += [*([each] for each in records), sent, [_tar()], *([each] for each in lists)]
    seeds = [bytes([reader]) + seed for reader, own in enumerate(by_reader) for seed in own]
    for number, seed in enumerate(seeds):
        (folder / f"seed-{number}").write_bytes(seed)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        _seeds(Path(name))
        atheris.Setup([*sys.argv, name], one)
        try:
            atheris.Fuzz()
        finally:
            _FILE.unlink()
