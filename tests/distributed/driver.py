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

from common.config import Config
from common.control import Plan, Stages
from common.group import join, start_rpc
from common.process import exit_now
from common.runfile import parse
from coordinator.course import Course
from coordinator.feed import Feeder
from coordinator.monitor.inbox import Inbox
from coordinator.monitor.report import Report
from coordinator.stream.clips import find
from coordinator.stream.slots import Slots


def main() -> None:
    if os.environ["RANK"] != "0":
        os.execv(sys.executable, [sys.executable, "-m", "stage_worker"])
    cases: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    out = Path(sys.argv[2])
    me = join("coordinator")
    losses: list[float] = []

    def take(report: Report) -> None:
        losses.extend(report.get("losses", []))

    inbox = Inbox(me.stages, take, lambda number: None, epoch=me.epoch)
    me.store.set("reports", inbox.address)
    start_rpc(me)
    stages = Stages(me.stages, 60, inbox.poll)
    for name, tree in cases.items():
        losses.clear()
        run(parse(tree, name), stages, inbox, me.epoch)
        save_file(stages.export(), out / f"{name}.safetensors")
        (out / f"{name}.json").write_text(json.dumps(losses))
    inbox.leave()
    stages.quit()
    exit_now(0)


def run(config: Config, stages: Stages, inbox: Inbox, epoch: int) -> None:
    assert config.data.train is not None
    clips = find(config.data.train, config.data.train_include, config.data.stride, config.task == "classify")
    assert config.split is not None
    assert config.ticks is not None
    addresses = stages.configure(Plan(config, len(clips.classes), tuple(config.split), config.ticks))
    slots = Slots(clips.clips, config.data, config.seed, True)
    feeder = Feeder(addresses, math.prod(config.frame_shape), 60, inbox.poll, epoch=epoch)
    course = Course(slots, config, ends=False)
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
