"""The coordinator's process: joins the other processes, runs the training, ends with an exit code."""

import json
import signal
import time
import traceback
from contextlib import suppress
from pathlib import Path

from common.config.settings import Config
from common.errors import ConfigError, PeerError, SidewaysError
from common.processes.interpreter import shorten_thread_switches
from common.processes.joining import join
from common.processes.layout import stages_each, workers_for
from common.processes.membership import Membership
from common.processes.open_files import allow_many_files, too_many_files
from common.processes.output import exit_now, print_error
from common.processes.parent import watch_parent
from common.processes.stop_signals import holds_stop_signals, note_stop_signals
from coordinator.launch.agent import end_agent
from coordinator.launch.attempt import deployed, may_be_restarted, restarts
from coordinator.launch.host_limits import open_files
from coordinator.run.checkpointing import position_of
from coordinator.run.pipeline import Pipeline
from coordinator.run.presence import Presence
from coordinator.run.setup.prepare import prepare
from coordinator.run.setup.prepared import Prepared
from coordinator.run.stop_request import StopRequest
from coordinator.run.summary import exit_code, finish
from coordinator.run.training import Training

_EXIT_NOTICE = 1.0  # seconds to tell the stages that the coordinator exits


def main(config: Config, run_file: str, resume: Path | None, as_json: bool) -> None:
    """Run the coordinator. Exits with 0, 1 (failed), 2 (invalid settings), 3 (lost peer) or 128 + signal.

    `run_file`: its name; `resume`: the run directory to resume.
    """
    watch_parent("the coordinator")
    if not holds_stop_signals():
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # before the first tick there is nothing to save
    shorten_thread_switches()
    process = _Process(config)
    try:
        code = process.run(run_file, resume, as_json)
    except SidewaysError as error:
        process.fail(str(error), final=error.code != PeerError.code)
        print_error(error)
        _end_agent(error.code)
        exit_now(error.code)
    except BaseException as error:
        process.fail(f"{type(error).__name__}: {error}", final=True)
        print_error(too_many_files(error) or f"the coordinator failed; please report this\n{traceback.format_exc()}")
        _end_agent(1)
        exit_now(1)
    exit_now(code)


class _Process:
    """The parts of a run that exist so far, so that an error at any point can be cleaned up."""

    def __init__(self, config: Config) -> None:
        self._config, self._started, self._stop = config, time.monotonic(), StopRequest()
        self._pipeline: Pipeline | None = None
        self._presence: Presence | None = None
        self._prepared: Prepared | None = None

    def run(self, run_file: str, resume: Path | None, as_json: bool) -> int:
        """Run from joining the other processes to the summary. Returns the exit code."""
        config, stop = self._config, self._stop
        allow_many_files(open_files(config))
        me = join("coordinator")
        if holds_stop_signals() or _may_go_on_from_memory(config, resume):
            note_stop_signals(stop.note)  # a stop is obeyed once what is only in memory is saved
        _check_stages(config, me)
        me = me.arranged(config.replicas, config.stages)
        pipeline = self._pipeline = Pipeline(me, config.network.deadline, on_signal=stop.note)
        presence = self._presence = Presence(config, me, stop, resume)
        run = self._prepared = prepare(config, pipeline, presence, stop, run_file, resume)
        note_stop_signals(stop.note)
        Training(run).run()
        summary = finish(run, self._started)
        if run.snapshots is not None:
            run.snapshots.leave()
        if as_json:
            _print(json.dumps(summary))
        return exit_code(run.state)

    def fail(self, reason: str, final: bool) -> None:
        """Report the error to all listeners. `final`: whether no other attempt follows."""
        pipeline, presence = self._pipeline, self._presence
        if pipeline is None:
            return
        if presence is None:
            pipeline.stages.expect_coordinator_exit(_EXIT_NOTICE)
            return
        tick = self._prepared.state.tick if self._prepared is not None else 0
        if not final:
            self._keep_snapshot()
        will_restart = not final and may_be_restarted()
        presence.fail(reason, tick, final, will_restart, lambda: pipeline.stages.expect_coordinator_exit(_EXIT_NOTICE))
        if final and self._prepared is not None and self._prepared.snapshots is not None:
            self._prepared.snapshots.leave()

    def _keep_snapshot(self) -> None:
        """Another attempt follows: keep the position, if it is needed. Never raises."""
        run = self._prepared
        if run is not None and run.snapshots is not None and run.state.tick > run.start.tick:
            with suppress(Exception):
                run.snapshots.keep_last(position_of(run, wait=False))


def _may_go_on_from_memory(config: Config, resume: Path | None) -> bool:
    """Whether the processes of an earlier attempt may have kept what is on no disk yet."""
    return resume is not None and config.recovery.snapshot_ticks > 0 and (restarts() > 0 or deployed())


def _print(line: str) -> None:
    """Print to standard output. If it is closed, end the process: everything is saved."""
    try:
        print(line, flush=True)
    except OSError:
        exit_now(1)


def _end_agent(code: int) -> None:
    """Under torchrun, prevent a restart that would fail again: only after a lost peer can it succeed."""
    if deployed() and code != PeerError.code:
        end_agent(code)


def _check_stages(config: Config, me: Membership) -> None:
    """Raise ConfigError unless the stages can be spread over the workers that joined, and the readers are there."""
    joined, replicas, stages = len(me.worker_ranks), config.replicas, config.stages
    expected, readers = _expected_processes(config, me), config.data.readers
    world = expected * replicas + readers + 1
    if len(me.readers) != readers:
        raise ConfigError(
            f"data.readers = {readers}, but {len(me.readers)} readers and {joined} stage workers joined: start {world} "
            f"processes, the readers with --role reader or the last ranks, or pass --set data.readers={len(me.readers)}"
        )
    if joined == expected * replicas:
        return
    each = f" with stages_per_process = {config.stages_per_process}" if config.stages_per_process != "auto" else ""
    if replicas == 1:
        raise ConfigError(
            f"stages = {stages}{each}, but {joined} stage workers joined: "
            f"start {world} processes, or pass --set stages={joined}"
        )
    raise ConfigError(
        f"stages = {stages} and replicas = {replicas}{each} need {expected * replicas} stage workers, but {joined} "
        f"joined: start {world} processes, or pass other --set stages=… --set replicas=…"
    )


def _expected_processes(config: Config, me: Membership) -> int:
    """Number of workers that a replica should have. Fewer than stages are enough if all of them have GPUs."""
    stages, each = config.stages, config.stages_per_process
    if each != "auto":
        return workers_for(stages, each)
    processes = len(me.worker_ranks) // config.replicas
    on_gpus = config.device != "cpu" and me.workers_have_gpus
    if on_gpus and not config.exact_gradients and 0 < processes < stages:
        return workers_for(stages, stages_each(stages, processes))
    return stages
