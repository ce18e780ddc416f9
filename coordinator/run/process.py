"""The coordinator's process: it joins the run, runs it, and ends with an exit code."""

import json
import os
import signal
import traceback
from pathlib import Path

from common.config.settings import Config
from common.errors import ConfigError, PeerError, SidewaysError
from common.processes.lifecycle import (
    allow_many_files,
    exit_now,
    print_error,
    shorten_thread_switches,
    stop_signals,
    too_many_files,
    watch_parent,
)
from common.processes.membership import Membership, join
from common.processes.rpc import start_rpc
from coordinator.launch.attempt import deployed
from coordinator.launch.host_limits import open_files
from coordinator.run.stop_request import StopRequest
from coordinator.run.training import Run


def main(config: Config, origin: str, resume: Path | None, as_json: bool) -> None:
    """The coordinator's process. Ends it with an exit code: 0, 1 failed, 2 wrong settings, 128 + signal."""
    watch_parent("the coordinator")
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # before the first tick there is nothing to keep
    shorten_thread_switches()
    stop, run = StopRequest(), None
    try:
        allow_many_files(open_files(config))
        me = join("coordinator")
        _check_stages(config, me)
        run = Run(config, me, origin, stop, resume)
        me.store.set("reports", run.inbox.address)
        start_rpc(me)
        run.prepare()
        for number in stop_signals():
            signal.signal(number, stop.note)
        run.train_and_evaluate()
        summary = run.keep()
        if as_json:
            _print(json.dumps(summary))
    except SidewaysError as error:
        _clear(run, str(error), error.code != PeerError.code)
        print_error(str(error))
        _end_agent(error.code)
        exit_now(error.code)
    except BaseException as error:
        _clear(run, f"{type(error).__name__}: {error}", final=True)
        print_error(too_many_files(error) or f"the coordinator failed; please report this\n{traceback.format_exc()}")
        _end_agent(1)
        exit_now(1)
    exit_now(run.code)


def _print(line: str) -> None:
    """On standard output. Ends the process where nobody listens any more; all is saved."""
    try:
        print(line, flush=True)
    except OSError:
        exit_now(1)


def _end_agent(code: int) -> None:
    """Where the run is deployed, do not let torchrun start again what would fail again: only a lost peer may not."""
    if deployed() and code != PeerError.code:
        os.kill(os.getppid(), signal.SIGTERM)


def _clear(run: Run | None, reason: str, final: bool) -> None:
    """Give the terminal back before an error is told."""
    if run is not None:
        run.fail(reason, final)


def _check_stages(config: Config, me: Membership) -> None:
    if me.stages != config.stages:
        raise ConfigError(
            f"stages = {config.stages}, but {me.stages} stage workers joined: "
            f"start {config.stages + 1} processes, or pass --set stages={me.stages}"
        )
