"""A coordinator that puts one set of real stage workers through many small runs, one after another.

Started by the elastic launcher as `-m tests.distributed.driver CASES.json OUT`: rank 0 is this coordinator, the others
become stage workers. Writes losses and parameters of each case into OUT. Only the command line and the display are
left out; configuring, feeding, ticking, reporting and exporting are the product's.
"""

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from common.config.run_file import parse
from common.config.settings import Config
from common.messages.stage_calls import Plan, Stages
from common.messages.stage_report import Report
from common.processes.lifecycle import exit_now
from common.processes.membership import join
from common.processes.rpc import start_rpc
from coordinator.monitor.report_inbox import ReportInbox
from coordinator.video.feeder import Feeder
from coordinator.video.files.clips import find
from coordinator.video.slots import Slots
from coordinator.video.targets import StepStream


def main() -> None:
    if os.environ["RANK"] != "0":
        os.execv(sys.executable, [sys.executable, "-m", "stage_worker"])
    cases: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    out = Path(sys.argv[2])
    me = join("coordinator")
    losses: list[float] = []

    def take(report: Report) -> None:
        losses.extend(report.get("losses", []))

    inbox = ReportInbox(me.stages, take, lambda number: None, attempt=me.attempt)
    me.store.set("reports", inbox.address)
    start_rpc(me)
    stages = Stages(me.stages, 60, inbox.poll)
    for name, tree in cases.items():
        losses.clear()
        run(parse(tree, name), stages, inbox, me.attempt)
        save_file(stages.export(), out / f"{name}.safetensors")
        (out / f"{name}.json").write_text(json.dumps(losses))
    inbox.leave()
    stages.quit()
    exit_now(0)


def run(config: Config, stages: Stages, inbox: ReportInbox, attempt: int) -> None:
    assert config.data.train is not None
    clips = find(config.data.train, config.data.train_include, config.data.stride, config.task == "classify")
    assert config.split is not None
    assert config.ticks is not None
    addresses = stages.configure(Plan(config, len(clips.classes), tuple(config.split), config.ticks))
    slots = Slots(clips.clips, config.data, config.seed, True)
    feeder = Feeder(addresses, math.prod(config.frame_shape), 60, inbox.poll, attempt=attempt)
    course = StepStream(slots, config, ends=False)
    inbox.expect_done()
    stages.train(0, config.ticks)
    for tick in range(config.ticks):
        step = course.next()
        assert step is not None
        feeder.push(0, tick, step)
        inbox.poll()
    inbox.wait_done(60)
    slots.close()
    feeder.close()


if __name__ == "__main__":
    main()
