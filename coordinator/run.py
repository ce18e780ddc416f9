"""The coordinator of a run: reads the video, feeds the pipeline, watches it, keeps what it learnt.

    video files ─► slots ─► feeder ──frames──► stage 0 ⇄ … ⇄ stage D-1
                              └─────targets (autoencoding)─────┘      all ──reports──► inbox ─► display, record

    training loop    consumes   decoded batches; reports
                     produces   one frame batch a tick
                     waits for  the slots (unblocked by the decoding threads), the feeder's queue (by stage 0's ticks)

The stages run the ticks up to an agreed last one. To stop early the coordinator holds the frames back, moves that last
tick to where no stage can have got without them, and feeds the rest: all stages end at the same tick.
"""

import json
import math
import resource
import signal
import time
import traceback
from dataclasses import dataclass
from itertools import count
from types import FrameType
from typing import Any

from common.config import Config
from common.control import Plan, Stages
from common.errors import ConfigError, SidewaysError
from common.group import Membership, join, start_rpc
from common.models import build
from common.models.check import check
from common.partition import balance, check_split
from common.process import complain, exit_now, watch_parent
from common.schedule import Schedule
from coordinator.evaluate import Evaluation, judge
from coordinator.feed import Batch, Feeder
from coordinator.monitor.display import Display, shown
from coordinator.monitor.inbox import Inbox, Report
from coordinator.monitor.record import MODEL, RunDirectory
from coordinator.monitor.totals import StageTotals, Totals, line
from coordinator.stream.clips import Clips, find
from coordinator.stream.slots import Mishaps, Slots

_GRACE_MS = 100
_IMPATIENT = 2.0  # seconds after which another signal is meant as one


class Stop:
    """A wish to stop: the number of the signal, 0 while there is none. A second signal does not wait."""

    def __init__(self) -> None:
        self.signal = 0
        self._since = 0.0

    def note(self, number: int, frame: FrameType | None = None) -> None:
        """Signal handler, and called when a stage was sent a signal; `frame` is None then.

        One wish may come several times: from the terminal, the launcher, a scheduler.
        """
        if self.signal and frame is not None and time.monotonic() > self._since + _IMPATIENT:
            complain("stopped at once, a second signal came; what was not saved yet is not kept")
            exit_now(128 + number)
        if not self.signal:
            self.signal, self._since = number, time.monotonic()


@dataclass
class Material:
    """The clips of a run."""

    train: Clips
    val: Clips | None


class Run:
    """One training run, from the coordinator's side."""

    def __init__(self, config: Config, origin: str, stop: Stop) -> None:
        self.config, self.origin, self.stop = config, origin, stop
        self.started = time.monotonic()
        self.display = Display()
        self.totals = Totals([StageTotals() for _ in range(config.stages)], config.data.slots)
        self.inbox = Inbox(config.stages, self._progress, stop.note)
        self.stages = Stages(config.stages, config.network.deadline, self.inbox.poll)
        self.tick = 0  # the next tick, and so the number of the next training frame
        self.train_seconds = 0.0
        self.evaluation: Evaluation | None = None
        self.evaluated_tick: int | None = None  # the saved model may be older or newer than the last evaluation
        self._phases = count(1)
        self._warned_of_loss = False
        self._mishaps: list[Mishaps] = []

    # ---- before the first tick

    @property
    def _mismatch(self) -> int:
        """Frames that a clip must outlast for the bottom stage to get a gradient of it."""
        return Schedule(self.config.stages).mismatch(0) if self.config.rule.boundary == "gate" else 0

    def _find_material(self) -> Material:
        data = self.config.data
        labelled = self.config.task == "classify"
        train = find(data.train, data.train_include, data.stride, labelled)
        val = find(data.val, data.val_include, data.stride, labelled, train.classes) if data.val else None
        for clips in filter(None, (train, val)):
            for text in clips.warnings(self._mismatch if clips is train else 0):
                self.display.warn(text)
        return Material(train, val)

    def prepare(self) -> None:
        """Find the clips, split the model, build the stages."""
        config = self.config
        self.material = self._find_material()
        frames, classes = self.material.train.frames, len(self.material.train.classes)
        self.planned = config.ticks or max(1, round((config.epochs or 0) * frames / config.data.slots))
        check(build(config, classes), config, classes)  # what is wrong with it is told by one process, not by all
        costs = self.stages.measure(config, classes)
        split = config.split or balance([cost.milliseconds for cost in costs], config.stages)
        check_split(split, len(costs))
        self.config = config = config.model_copy(update={"split": split})
        self.display.split(costs, split)
        addresses = self.stages.configure(Plan(config, classes, tuple(split)))
        self.directory = RunDirectory(config, self.origin)
        self.directory.save_config(config)
        patience = 1.5 * config.network.deadline
        self.feeder = Feeder(addresses, math.prod(config.frame_shape), patience, self.inbox.poll)
        self.slots = self._open(self.material.train, train=True)
        self._batches = [Batch(config.frame_shape) for _ in range(2)]

    def _open(self, clips: Clips, train: bool) -> Slots:
        config = self.config
        mismatch = self._mismatch if train else 0
        slots = Slots(clips.clips, config.data, config.seed, train, mismatch, config.network.deadline, self.inbox.poll)
        self._mishaps.append(slots.mishaps)
        return slots

    # ---- the phases

    def train_and_evaluate(self) -> None:
        """The whole training, with evaluations between and after; or as much as the wish to stop allows."""
        while self.tick < self.planned and not self.stop.signal:
            span = self.config.evaluate_every or self.planned
            self._train(min(self.planned, self.tick + span))
            self._save_model()  # before anything else can go wrong
            if not self.stop.signal:
                self._evaluate()
        self.display.end()

    def _train(self, last: int) -> None:
        """Ticks up to `last`."""
        start = time.monotonic()
        self.inbox.expect_done()
        self.display.begin("training", self.planned)
        self.stages.train(self.tick, last)
        batch, stopping = self._batches[0], False
        while self.tick < last:
            if self.stop.signal and not stopping:
                stopping = True
                self.inbox.poll(_GRACE_MS)  # if the launcher ends us because a stage died, that is the news
                last = self._stop_soon(last)
            self.slots.fill(batch.frames, batch.clips, batch.labels)
            self.feeder.push(0, self.tick, False, batch)
            self.inbox.poll()
            self.tick += 1
        self.inbox.wait_done(1.5 * self.config.network.deadline)
        self.train_seconds += time.monotonic() - start

    def _stop_soon(self, last: int) -> int:
        """Move the last tick close: stage i can be at most i ticks ahead of the frames that were sent."""
        self.display.say("stopping: the frames under way are finished, then the model is saved")
        soon = min(last, self.tick + self.config.stages)
        self.stages.stop_at(soon)
        return soon

    def _evaluate(self) -> None:
        """Every frame of the validation clips forward through the frozen pipeline."""
        if self.material.val is None:
            return
        phase, slots = next(self._phases), self._open(self.material.val, train=False)
        self.inbox.expect_done()
        self.display.begin("evaluating", -(-self.material.val.frames // self.config.data.slots))
        self.stages.evaluate(phase)
        batch, following = self._batches
        complete = True
        more, frame = slots.fill(batch.frames, batch.clips, batch.labels), 0
        if not more:  # nothing could be decoded after all: the stages still need a last frame
            batch.frames[:], batch.clips[:], batch.labels[:] = 0, -1, -1
            self.feeder.push(phase, 0, True, batch)
        while more:
            more = slots.fill(following.frames, following.clips, following.labels)
            if more and self.stop.signal:
                more = complete = False
            self.feeder.push(phase, frame, not more, batch)
            self.inbox.poll()
            batch, following = following, batch
            frame += 1
            self.display.evaluated(frame)
        self.inbox.wait_done(1.5 * self.config.network.deadline)
        slots.close()
        if complete:
            self._note_evaluation(judge(self.stages.results(), self.config.task))

    def _note_evaluation(self, evaluation: Evaluation) -> None:
        self.evaluation, self.evaluated_tick = evaluation, self.tick
        figures = {f"val_{name}": getattr(evaluation, name) for name in ("top1", "top5", "mse", "clips", "frames")}
        figures = {name: value for name, value in figures.items() if value is not None}
        self.directory.metric({"kind": "evaluation", "tick": self.tick, **figures})
        self.display.say(f"tick {self.tick}: " + ", ".join(f"{name} {shown(value)}" for name, value in figures.items()))

    def _progress(self, report: Report) -> None:
        self.totals.add(report)
        self.directory.metric(line(report, self.config.data.slots))
        self.display.trained(self.totals, self.planned)
        if not math.isfinite(report.get("loss", 0.0)) and not self._warned_of_loss:
            self._warned_of_loss = True
            self.display.warn(
                f"tick {report['tick']}: the loss is {report['loss']}: stop, and try a smaller optimiser.lr"
            )

    # ---- afterwards

    def keep(self) -> dict[str, Any]:
        """Save the summary, let the stages go. Returns the summary."""
        self.inbox.leave()
        self.stages.quit()
        self.slots.close()
        self.feeder.close()
        summary = self._summary()
        self.directory.save_summary(summary)
        self._tell_mishaps()
        model = self.directory.path / MODEL
        self.display.result({**summary, "model": model if model.exists() else "none: stopped before the first tick"})
        return summary

    def _save_model(self) -> None:
        self.directory.save_model(self.stages.export(), self.config, self.material.train.classes)

    def _summary(self) -> dict[str, Any]:
        evaluation = self.evaluation or Evaluation(0, 0)
        summary = {
            "run": str(self.directory.path),
            "ticks": self.tick,
            "frames_per_second": round(self.tick * self.config.data.slots / max(self.train_seconds, 1e-9), 2),
            "val_top1": evaluation.top1,
            "val_top5": evaluation.top5,
            "val_tick": self.evaluated_tick,
            "seconds": round(time.monotonic() - self.started, 2),
            "slowest_stage_ms": round(self.totals.slowest_stage_ms, 3),
            "tick_ms": round(self.totals.tick_ms, 3),
        }
        if self.config.task == "autoencode":
            summary["val_mse"] = evaluation.mse
        both = filter(None, (self.material.train, self.material.val))
        summary["unreadable_files"] = sum(len(clips.bad) for clips in both)
        for kind in ("skipped", "broken", "short"):
            summary[f"{kind}_clips"] = sum(getattr(mishaps, kind) for mishaps in self._mishaps)
        return summary

    def _tell_mishaps(self) -> None:
        skipped = sum(mishaps.skipped for mishaps in self._mishaps)
        broken = sum(mishaps.broken for mishaps in self._mishaps)
        if skipped or broken:
            reasons = [reason for mishaps in self._mishaps for reason in mishaps.reasons][:5]
            self.display.warn(
                f"clips were skipped {skipped} times and broke off {broken} times while playing: {'; '.join(reasons)}"
            )
        if self.totals.dropped:
            self.display.warn(f"a stage dropped {self.totals.dropped} reports: the coordinator did not keep up")


def main(config: Config, origin: str, as_json: bool) -> None:
    """The coordinator's process. Ends it with an exit code: 0, 1 failed, 2 wrong settings, 128 + signal."""
    watch_parent("the coordinator")
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # before the first tick there is nothing to keep
    _allow_many_files()
    stop, run = Stop(), None
    try:
        me = join("coordinator")
        _check_stages(config, me)
        run = Run(config, origin, stop)
        me.store.set("reports", run.inbox.address)
        start_rpc(me)
        run.prepare()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop.note)
        run.train_and_evaluate()
        summary = run.keep()
        if as_json:
            print(json.dumps(summary), flush=True)
    except SidewaysError as error:
        _clear(run)
        complain(str(error))
        exit_now(2 if isinstance(error, ConfigError) else 1)
    except BrokenPipeError:
        exit_now(1)  # nobody listens any more; all is saved
    except BaseException:
        _clear(run)
        complain(f"the coordinator failed; please report this\n{traceback.format_exc()}")
        exit_now(1)
    exit_now(128 + stop.signal if stop.signal else 0)


def _clear(run: Run | None) -> None:
    """Give the terminal back before an error is told."""
    if run is not None:
        run.display.end()


def _allow_many_files() -> None:
    """Every slot keeps a file open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if soft != resource.RLIM_INFINITY else soft, hard))


def _check_stages(config: Config, me: Membership) -> None:
    if me.stages != config.stages:
        raise ConfigError(
            f"stages = {config.stages}, but {me.stages} stage workers joined: "
            f"start {config.stages + 1} processes, or pass --set stages={me.stages}"
        )
    if me.local_stages != me.stages:
        raise ConfigError(
            f"{me.stages - me.local_stages} of the {me.stages} stage workers are on other hosts than the coordinator: "
            f"so far frames and reports stay on one host, so start all processes there"
        )
