"""`make fuzz`: feeds everything that reads bytes from a socket from a coverage-guided fuzzer (atheris).

python -m tests.fuzz [CORPUS] [libFuzzer's options, such as -max_total_time=3600]

Any exception but a SidewaysError ends it with a traceback, and writes the bytes to a file.
"""

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["common", "coordinator", "msgpack", "pydantic"]):
    import msgpack
    import numpy as np

    from common.errors import SidewaysError
    from common.messages import frame_envelope as wire
    from common.messages import stage_report as report
    from common.run_registry import records as runstate
    from coordinator.monitor.run_totals import RunTotals, StageTotals, metric_line
    from coordinator.reader import messages

_RECORDS = (runstate.Command, runstate.Answer, runstate.Owner, runstate.Status)


def one(data: bytes) -> None:
    """Decode one input. The first byte selects the decoder."""
    if not data:
        return
    reader, data = data[0] % 8, data[1:]
    try:
        if reader == 0:
            envelope = wire.Envelope(data, 3, 1)
            assert len(envelope.clips) == len(envelope.labels) == 3
        elif reader == 1:
            _report(report.decode_report(data, 3, 1))
        elif reader == 2:
            runstate.decode_line(data)
        elif reader == 7:
            message = messages.decode_message(data, 1)
            assert messages.decode_message(messages.encode_message(message), 1) == message
        else:
            record = runstate.decode(_RECORDS[reader - 3], data)
            assert runstate.decode(type(record), record.encode()) == record
    except SidewaysError:
        pass


def _report(decoded: report.Report) -> None:
    """Every decoded report can be added to the totals."""
    if isinstance(decoded, report.Progress):
        totals = RunTotals([StageTotals() for _ in range(3)], 4)
        totals.add(decoded)
        metric_line(decoded)
        assert totals.loss is None or decoded.loss is not None


def _seeds(folder: Path) -> None:
    """Write valid inputs to start from."""
    frames = wire.encode_frames(1, 0, 3, False, np.arange(3), np.arange(3))
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
    seeds = [b"\0" + frames, *(b"\1" + msgpack.packb(each) for each in reports)]
    seeds += [b"\2" + runstate.encode_line({"kind": "progress", "tick": 3})]
    seeds += [bytes([3 + place]) + each.encode() for place, each in enumerate((command, answer, owner, status))]
    fed = messages.Fed(attempt=1, frame=3, places=messages.encode_places([(7, 2)]))
    seeds += [b"\7" + messages.encode_message(each) for each in (fed, messages.Feed(attempt=1, end=3))]
    for number, seed in enumerate(seeds):
        (folder / f"seed-{number}").write_bytes(seed)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        _seeds(Path(name))
        atheris.Setup([*sys.argv, name], one)
        atheris.Fuzz()
