"""The coordinator's process: it joins the run, runs it, and ends with an exit code."""

import json
import os
import resource
import signal
import traceback
from pathlib import Path

from common.config import Config
from common.errors import ConfigError, PeerError, SidewaysError
from common.group import Membership, join, start_rpc
from common.process import complain, exit_now, take_turns, watch_parent
from coordinator.again import deployed
from coordinator.run import Run
from coordinator.stop import Stop


def main(config: Config, origin: str, resume: Path | None, as_json: bool) -> None:
    """The coordinator's process. Ends it with an exit code: 0, 1 failed, 2 wrong settings, 128 + signal."""
    watch_parent("the coordinator")
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # before the first tick there is nothing to keep
    _allow_many_files()
    take_turns()
    stop, run = Stop(), None
    try:
        me = join("coordinator")
        _check_stages(config, me)
        run = Run(config, me, origin, stop, resume)
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
        _clear(run, str(error))
        complain(str(error))
        _end_agent(error.code)
        exit_now(error.code)
    except BrokenPipeError:
        exit_now(1)  # nobody listens any more; all is saved
    except BaseException as error:
        _clear(run, f"{type(error).__name__}: {error}")
        complain(f"the coordinator failed; please report this\n{traceback.format_exc()}")
        _end_agent(1)
        exit_now(1)
    exit_now(run.code)


def _end_agent(code: int) -> None:
    """Where the run is deployed, do not let torchrun start again what would fail again: only a lost peer may not."""
    if deployed() and code != PeerError.code:
        os.kill(os.getppid(), signal.SIGTERM)


def _clear(run: Run | None, reason: str) -> None:
    """Give the terminal back before an error is told."""
    if run is not None:
        run.fail(reason)


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
