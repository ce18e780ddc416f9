"""The coordinator of a run: reads the video, feeds the pipeline, watches it, keeps what it learnt.

    video files ─► stream ─► course ─► feeder ──frames──► stage 0 ⇄ … ⇄ stage D-1
                                         └─────targets───────────────────┘     all ──reports──► inbox ─► chronicle

    training loop    consumes   decoded batches; reports
                     produces   one frame batch a tick; a checkpoint, an evaluation, between two ticks
                     waits for  the stream (unblocked by the decoding threads), the feeder's queue (by stage 0's ticks)

The stages run the ticks up to an agreed last one. To stop early the coordinator holds the frames back, moves that last
tick to where no stage can have got without them, and feeds the rest: all stages end at the same tick.
"""

import math
import time
from pathlib import Path
from shutil import rmtree
from typing import Any

from common.config.settings import Config
from common.errors import DataError, SidewaysError
from common.messages.stage_calls import WRITING, Plan, StageCalls
from common.messages.stage_report import Progress
from common.messages.stage_rpc import Stages
from common.models import build
from common.partition.balance import BlockCost, check_split
from common.partition.model_check import check_model
from common.processes.membership import Membership
from common.run_registry.records import Answer, State, plain
from common.run_registry.redis_connection import from_environment
from common.telemetry.spans import Kind, WorkClock, clock
from coordinator.checkpoints.background_saver import BackgroundSaver
from coordinator.checkpoints.resume import StartPoint, find_checkpoint, start_from
from coordinator.checkpoints.store import Checkpoints, Position
from coordinator.launch.attempt import RunMarker, deployed, restarts
from coordinator.monitor.broadcast import Broadcast
from coordinator.monitor.evaluation_scores import Evaluation, evaluation_of
from coordinator.monitor.report_inbox import ReportInbox
from coordinator.monitor.run_status import Onlookers
from coordinator.monitor.run_totals import RunTotals, StageTotals
from coordinator.monitor.terminal import Terminal
from coordinator.page.http_app import PageServer
from coordinator.page.state import PageState
from coordinator.registry.embedded_redis import EmbeddedRedis
from coordinator.registry.redis_publisher import RedisPublisher
from coordinator.run.commands import CommandQueue
from coordinator.run.divergence import divergence, has_diverged, slower
from coordinator.run.evaluation_phase import EvaluationPhase
from coordinator.run.gradient_probe import GradientProbe
from coordinator.run.split import choose
from coordinator.run.stop_request import StopRequest
from coordinator.run_directory import MODEL, RunDirectory, create
from coordinator.trace.recorder import TraceDone, TraceRecorder
from coordinator.video.datasets import Datasets
from coordinator.video.feeder import Feeder
from coordinator.video.targets import Step, StepStream

_GRACE_MS = _IDLE_MS = 100
_HURRIED = 10.0  # seconds to finish writing a checkpoint after a stop; the launcher kills after 30
_LAST_PROBE = 30.0  # seconds
_LAST_WORDS = 1.0  # seconds


class Run:
    """One training run, from the coordinator's side."""

    def __init__(
        self, config: Config, me: Membership, origin: str, stop: StopRequest, resume: Path | None = None
    ) -> None:
        """`origin` is the run file's name; `resume` the run directory to go on with."""
        self._me = me
        self.config, self.stop, self.resume, self._run_file = config, stop, resume, origin
        self.started = time.monotonic()
        self.terminal = Terminal()
        self.totals = RunTotals([StageTotals() for _ in range(config.stages)], config.data.slots)
        self.inbox = ReportInbox(me, config.network.deadline, self._progress, stop.note)
        self.stages = Stages(config.stages, config.network.deadline, self.inbox.poll)
        self.work = WorkClock()
        self.steering = CommandQueue(stop)
        self.trace = RunMarker(config.runs)
        self.onlookers = Onlookers()
        self._page_server: PageServer | None = None
        self._page: PageState | None = None
        self._redis = from_environment() if config.report.redis else None
        self.start = StartPoint()
        self.tick = 0  # the next tick, and so the number of the next training frame
        self.train_seconds = 0.0
        self._saved_tick = 0
        self._overdue = False  # an evaluation where the run is resumed
        self._lost_at: float | None = None  # when an earlier attempt gave its last sign of life
        self._data_error: DataError | None = None  # why no more frames come: the run keeps what it learnt, and ends
        self._made: Path | None = None  # the run directory, where this attempt has made it
        self.evaluation: Evaluation | None = None
        self.evaluated_tick: int | None = None  # the saved model may be older or newer than the last evaluation

    # ---- before the first tick

    def prepare(self) -> None:
        """Find the clips, split the model, build the stages, go back to a checkpoint."""
        if self.config.report.page:
            self._page_server = PageServer(self.config.report, self.resume)  # before anything is made
        stop = self.stop
        self.datasets = Datasets(self.config, self.terminal.warn, self.inbox.poll, lambda: bool(stop.signal))
        self.planned = self.datasets.planned
        classes = len(self.datasets.train.classes)
        model = build(self.config, classes, self.terminal.warn)
        shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
        check_model(model, self.config, classes)  # what is wrong with it is told by one process, not by all
        for text in self.config.idle(self.planned):
            self.terminal.warn(text)
        if self.resume is None:
            self._made = create(self.config, self._run_file)
        self.directory = RunDirectory(self._made or self.resume or Path())
        again = self.resume is not None and self.trace.find() == self.resume
        if self.resume is None:  # else its run file is still the old one: an attempt more is told of it again
            self.trace.leave(self.directory.path)
            self._introduce()
        self._lost_at = self.directory.last_sign if again else None
        checkpoints = Checkpoints(self.directory.path, self.config.checkpoint.keep)
        found = find_checkpoint(checkpoints, shapes, self.planned, again, self.terminal.warn) if self.resume else None
        costs, split = self._split(classes, found[1].split if found else None)
        config = self.config
        if found is not None:
            self.start = start_from(*found, config, split, self.datasets, self.terminal.warn)
        addresses = self.stages.configure(Plan(config, classes, tuple(split), self.planned, self.start.origin))
        if self.resume is not None:  # only now is it accepted, and may be touched
            self._introduce()
        if found is not None:
            checkpoints.forget_after(self.start.tick)
        self._restore()
        self.directory.save_config(config)
        self.trace.leave(self.directory.path)
        self.broadcast = Broadcast(config, self.terminal, self.directory, self.totals, self.planned, self.start.tick)
        self.broadcast.onlookers = self.onlookers
        self.broadcast.partition(costs, split)
        self.saver = BackgroundSaver(checkpoints, self.stages, self.terminal.warn)
        patience, me = 1.5 * config.network.deadline, self._me
        size, look, warn = math.prod(config.frame_shape), self.inbox.poll, self.terminal.warn
        self.feeder = Feeder(me, addresses, size, patience, look, warn)
        self.validation = EvaluationPhase(config, self.stages, self.feeder, self.inbox, self.stop)
        self.stream = self.datasets.open_training(self.start.places)
        self.course = StepStream(self.stream, config, ends=False)
        self.tracing = TraceRecorder(self.directory.path, config, self.stages, self.work)
        self.broadcast.metrics.watch(self.datasets, self.saver, self.feeder)
        self.broadcast.metrics.serve(me.address, [address.metrics for address in addresses])
        if self._page is not None:
            self._page.built([cost.name for cost in costs], split, self.start.origin, self.broadcast.metrics.numbers)
        probed = config.probe.every > 0
        self.probe = GradientProbe(config, classes, self.stages, self.start.origin) if probed else None

    def _introduce(self) -> None:
        """Whoever looks on is told from here on."""
        self._page = self._show(self._page_server) if self._page_server is not None else None
        if self.config.report.redis:
            self.onlookers.append(self._light())

    def _show(self, page_server: PageServer) -> PageState:
        """The page is there from here on."""
        page = PageState(self.config, self.directory.path, self.planned, page_server, self.terminal.warnings)
        self.onlookers.append(page)
        self.terminal.say(f"watch it at {page_server.open(page.answer, self._me.address, self.directory.path)}")
        return page

    def _light(self) -> RedisPublisher:
        """Redis is told of the run from here on, and may steer it: the one of the environment, or one of its own."""
        server = self._redis or EmbeddedRedis(self.directory.path)
        steering, warn = self.steering, self.terminal.warn
        publisher = RedisPublisher(self.config, self.directory.path, self.planned, server, steering.submit, warn)
        steering.answer = publisher.answer
        publisher.start(resumed=self.resume is not None)
        return publisher

    def _split(self, classes: int, before: list[int] | None) -> tuple[list[BlockCost], list[int]]:
        """Which blocks go to which stage, now in the configuration too. `before`: in the run that is resumed."""
        costs, stages = self.stages.ask(0, StageCalls.measure, self.config, classes), self.config.stages
        earlier = before if before is not None and len(before) == stages else None
        split = self.config.split or earlier or choose(self.config, classes, costs, self.stages)
        check_split(split, len(costs))
        self.config = self.config.model_copy(update={"split": split})
        self.terminal.split(costs, split)
        return costs, split

    def _restore(self) -> None:
        """Go back to the checkpoint that the run starts from, if it does."""
        start, every = self.start, self.config.evaluate_every
        evaluated = start.scored or every == 0 or start.tick % every > 0  # or was not to be
        self._overdue = start.folder is not None and not evaluated
        if start.folder is not None:
            self.stages.ask_all(
                StageCalls.restore, start.folder.resolve(), start.tick, start.in_flight, start.optimiser
            )
        if self.resume is not None:
            self.directory.forget_from(start.tick, evaluated)
        if start.folder is not None:
            self.tick = self.totals.tick = self._saved_tick = start.tick
            self.train_seconds = start.seconds
            self.terminal.say(str(start))
            self.onlookers.resumed_at(start.tick)

    # ---- the phases

    def train_and_evaluate(self) -> None:
        """The whole training, with evaluations and checkpoints between; or as much as the wish to stop allows.

        Raises:
            DataError: the data fail. What was learnt from them is kept.
        """
        try:
            self._phases()
            if self._data_error is not None:
                raise self._data_error
        except DataError as error:
            self._finish_checkpoint()
            self.terminal.end()
            if self._saved_tick == 0:
                raise
            raise DataError(
                f"{error}. What was learnt until tick {self._saved_tick} is kept: when the data are there again, go on "
                f"by `sideways train --resume {self.directory.path}`"
            ) from error

    def _phases(self) -> None:
        self.broadcast.metrics.announce(self.directory.path)
        if self.config.report.trace_ticks:
            self._trace_at_once(self.config.report.trace_ticks)
        if self.tick >= self.planned or self._overdue:  # a process was lost after the last tick, or in an evaluation
            self._save_model()
            self._evaluate()
        while self.tick < self.planned and not self._ending:
            if not self._train(self._next_pause()):
                break
            evaluating = self._due(self.config.evaluate_every)
            if evaluating:
                self._save_model()  # before anything else can go wrong
            if evaluating or self._due(self.config.checkpoint.every):
                self._save_checkpoint(worth_waiting=evaluating)
            if evaluating:
                self._evaluate()
            self.steering.execute(self)
        if self._saved_tick < self.tick:  # asked to stop since it was last due
            self._save_model()
            self._save_checkpoint(worth_waiting=True)
        self._finish_checkpoint()
        if self.probe is not None and not self._ending:
            self.probe.finish(_LAST_PROBE, self.inbox.poll)
            self._tell_probe(self.probe)
        self.tracing.finish(_HURRIED)
        self.terminal.end()

    def _next_pause(self) -> int:
        """The next tick at which something else than training is due."""
        every = [every for every in (self.config.evaluate_every, self.config.checkpoint.every) if every]
        return min([self.planned, *((self.tick // n + 1) * n for n in every)])

    def _due(self, every: int) -> bool:
        """Whether something that happens every so many ticks, and at the end, does now."""
        return self.tick >= self.planned or self._ending or (every > 0 and self.tick % every == 0)

    @property
    def _ending(self) -> bool:
        """Whether the run is to end before its time."""
        return bool(self.stop.signal) or self._data_error is not None

    def _train(self, last: int) -> bool:
        """Ticks up to `last`. Returns whether there were frames for any."""
        try:
            self.course.prime()
        except DataError as error:
            self._data_error = error
            return False
        start = time.monotonic()
        self.inbox.expect_done()
        self.terminal.begin("training", self.planned)
        self.stages.ask_all(StageCalls.stop_at, last)
        self.stages.ask_all(StageCalls.train, self.tick)
        self.broadcast.metrics.training(True)
        self.onlookers.state("running", tick=self.tick)
        ending = False
        while self.tick < last:
            if (self._ending or self.steering.wanted) and not ending:
                ending, last = True, self._end_soon(last)
            self.work.begin_tick(self.tick)
            step = self._step()
            if self.probe is not None:
                self._look_after_probe(self.probe, step, last)
            start = clock()
            self.feeder.push(0, self.tick, step)
            self.work.add(Kind.FEED, start)
            self.broadcast.metrics.fed += 1
            self.inbox.poll()
            self.saver.look()
            self.tick += 1
            self.tracing.poll(self.tick)
        self.work.end_phase()
        self.inbox.wait_done(1.5 * self.config.network.deadline)
        self.broadcast.metrics.training(False)
        self.train_seconds += time.monotonic() - start
        return True

    def _step(self) -> Step:
        """The next frames. Where there are none any more, those before once more, for the last few ticks.

        Raises DataError: there have not been any.
        """
        if self._data_error is None:
            try:
                start = clock()
                step = self.course.next()
                self.work.add(Kind.READ, start)
                if step is not None:
                    return step
                self._data_error = DataError(f"tick {self.tick}: the frames have run out")
            except DataError as error:
                self._data_error = error
        if self.course.last is None:
            raise self._data_error
        return self.course.last

    def _end_soon(self, last: int) -> int:
        """Move the last tick close: stage i can be at most i ticks ahead of the frames that were sent."""
        if self.stop.signal:
            self.inbox.poll(_GRACE_MS)  # if the launcher ends us because a stage died, that is the news
            self.terminal.say("stopping: the frames under way are finished, then the model is saved")
        soon = min(last, self.tick + self.config.stages)
        self.stages.ask_all(StageCalls.stop_at, soon)
        return soon

    def _look_after_probe(self, probe: GradientProbe, step: Step, last: int) -> None:
        probe.ask_before(self.tick, last)
        probe.take(self.tick, step)
        self._tell_probe(probe)

    def _tell_probe(self, probe: GradientProbe) -> None:
        found = probe.result()
        if found is not None:
            self.broadcast.probe(found)

    def _evaluate(self) -> None:
        """Every frame of the validation clips forward through the frozen pipeline."""
        val = self.datasets.val
        if val is None or self._ending:
            return
        self.onlookers.state("running", "evaluating", tick=self.tick)
        self.terminal.begin("evaluating", -(-val.frames // self.config.data.slots))
        scores = self.validation.run(self.datasets.open_evaluation(), self.terminal.evaluated)
        if scores is None:
            return
        self.evaluation, self.evaluated_tick = evaluation_of(scores, self.config.task), self.tick
        classes = self.datasets.train.classes
        self.broadcast.evaluation(self.tick, self.train_seconds, self.evaluation, scores.pictures, classes)
        score = self.evaluation.score
        if score is not None:
            self._finish_checkpoint()
            self.saver.note_score(self.tick, score)

    def _progress(self, report: Progress) -> None:
        self.broadcast.progress(report)
        if self._lost_at is not None:
            self.broadcast.recovered(report.tick, restarts(), round(time.time() - self._lost_at, 3))
            self._lost_at = None
        if has_diverged(report, self.config.recovery):
            self._diverged(report)

    def _diverged(self, report: Progress) -> None:
        """Stop, or go back to a checkpoint from before the weights can have gone wrong."""
        first = report.tick - report.ticks - 2 * self.config.stages
        if self.config.recovery.divergence == "rollback":
            self.config = slower(self.config)
            self.saver.drop()
            self.saver.checkpoints.forget_after(first)
            self.directory.save_config(self.config)
        raise divergence(report, self.config)

    def _save_model(self) -> None:
        self.directory.save_model(self.stages.export(), self.config, self.datasets.train.classes)
        self._saved_tick = self.tick

    def _save_checkpoint(self, worth_waiting: bool) -> None:
        """Take a checkpoint; one `worth_waiting` for is not left out because the last is still being written."""
        if worth_waiting:
            self._finish_checkpoint()
        places, clips = self.course.places(), self.datasets.fingerprint
        self.saver.save(Position.of(self.config, self.tick, self.start.origin, places, clips, self.train_seconds))

    def _finish_checkpoint(self) -> None:
        self.saver.finish(lambda: _HURRIED if self.stop.signal else WRITING, self.inbox.poll)

    # ---- what may be asked of it between two phases (steering.py)

    @property
    def over(self) -> bool:
        """Whether it has done its ticks."""
        return self.tick >= self.planned

    def hold(self, paused: bool) -> None:
        """Show that it is paused, or goes on."""
        self.terminal.say(f"{'paused at' if paused else 'going on from'} tick {self.tick}, as asked")
        self.onlookers.state("paused" if paused else "running", tick=self.tick)

    def idle(self) -> None:
        """Look after the stages for a moment."""
        self.inbox.poll(_IDLE_MS)
        self.saver.look()
        self.tracing.poll(self.tick)

    def checkpoint_now(self) -> str:
        """Take a checkpoint and wait for it. Returns what was kept. Raises SidewaysError."""
        if not self._checkpoint_at_once():
            raise SidewaysError(f"the checkpoint of tick {self.tick} could not be kept: the run has said why")
        return f"kept the checkpoint of tick {self.tick} in {self.directory.path}"

    def set_rate(self, rate: float) -> str:
        """Change optimiser.lr from this tick on. Returns what was done. Raises SidewaysError.

        What is resumed has it from this tick on, too: there is a checkpoint of it before the new rate is kept.
        """
        config = self.config.at_rate(rate)
        kept = self._checkpoint_at_once()
        self.directory.save_config(config)
        self.config = config
        self.stages.ask_all(StageCalls.set_rate, rate)
        self.broadcast.rate(self.tick, rate)
        unkept = "" if kept else "; no checkpoint of it could be kept, so what is resumed has it from an earlier one on"
        return f"optimiser.lr is {rate:g} from tick {self.tick} on{unkept}"

    def _checkpoint_at_once(self) -> bool:
        """Take one and wait for it. Returns whether there is one of this tick now."""
        self._save_checkpoint(worth_waiting=True)
        self._finish_checkpoint()
        return self.saver.tick == self.tick

    def record(self, ticks: int, told: TraceDone) -> None:
        """Trace some ticks to come; `told` hears of it afterwards. Raises SidewaysError."""
        self.terminal.say(f"recording {self.tracing.begin(self.tick, ticks, self.planned, told)} for a trace, as asked")

    def _trace_at_once(self, ticks: int) -> None:
        try:
            self.record(ticks, self._tell_trace)
        except SidewaysError as error:
            self.terminal.warn(f"nothing is traced: {error}")

    def _tell_trace(self, answer: Answer) -> None:
        (self.terminal.say if answer.state == "done" else self.terminal.warn)(f"trace: {answer.text}")

    # ---- afterwards

    @property
    def code(self) -> int:
        """The exit code. Who deploys a run starts again what ends with another than 0."""
        return 0 if self._done and deployed() else 128 + self.stop.signal if self.stop.signal else 0

    @property
    def _done(self) -> bool:
        return self.over or self.stop.final

    def keep(self) -> dict[str, Any]:
        """Save the summary, let the stages go. Returns the summary."""
        self.inbox.leave()
        self.stages.ask_all(StageCalls.quit, self.code)
        self.stream.close()
        self.feeder.close()
        self.broadcast.close()
        if self._done or not deployed():
            self.trace.remove()
        summary = self._summary()
        self.directory.save_summary(summary)
        self._put_out()
        self.datasets.warn_of_errors()
        if self.totals.dropped:
            self.terminal.warn(f"a stage dropped {self.totals.dropped} reports: the coordinator did not keep up")
        model = self.directory.path / MODEL
        self.terminal.result({**summary, "model": model if model.exists() else "none: stopped before the first tick"})
        return summary

    def _put_out(self) -> None:
        """Onlookers hear the last word."""
        state: State = "finished" if self.over else "stopped"
        self.steering.close(f"{state} at tick {self.tick}: the model is in {self.directory.path}")
        self.onlookers.close(state, tick=self.tick)

    def fail(self, reason: str, final: bool) -> None:
        """The run ends by an error: give the terminal back before it is told, and tell onlookers.

        `final`: no other attempt comes after this one.
        """
        self.terminal.end()
        self.steering.close(f"the run failed: {plain(reason)}"[:1000])
        self.onlookers.close("failed", reason, tick=self.tick)
        if not final:
            return
        self.stages.expect_coordinator_exit(_LAST_WORDS)
        if not deployed():
            self.trace.remove()
        if self._page_server is not None:
            self._page_server.forget()
        if self._made is not None and self.tick == 0:  # there is nothing in it, and its name is free again
            rmtree(self._made, ignore_errors=True)

    def _summary(self) -> dict[str, Any]:
        evaluation = self.evaluation or Evaluation(0, 0)
        frames = (self.tick - self.start.tick) * self.config.data.slots
        summary: dict[str, Any] = {
            "run": str(self.directory.path),
            "algorithm": self.config.algorithm,
            "restarts": restarts(),
            "ticks": self.tick,
            "frames_per_second": round(frames / max(self.train_seconds - self.start.seconds, 1e-9), 2),
            "val_top1": evaluation.top1,
            "val_top5": evaluation.top5,
            "val_tick": self.evaluated_tick,
            "seconds": round(time.monotonic() - self.started, 2),
            "train_seconds": round(self.train_seconds, 2),
            "slowest_stage_ms": round(self.totals.slowest_stage_ms, 3),
            "tick_ms": round(self.totals.tick_ms, 3),
            "peak_memory_mib": [round(stage.peak_memory / 2**20, 1) for stage in self.totals.stages],
            "failed_checkpoints": self.saver.failed,
        }
        if self.config.task != "classify":
            summary["val_mse"] = evaluation.mse if evaluation.score is not None else None  # JSON has no NaN
        return summary | self.datasets.summary()
