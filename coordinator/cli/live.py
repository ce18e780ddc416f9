"""The commands that show and control live runs, from any host that can reach their Redis."""

import json
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from common.config.settings import MOST_TRACED
from common.errors import ConfigError, SidewaysError
from coordinator.cli.completion import run_names
from coordinator.cli.console import console

if TYPE_CHECKING:
    from common.run_registry.records import Answer, Command, Owner
    from coordinator.registry.run_finder import RunAccess, RunInfo

steer = typer.Typer()

Run = Annotated[str, typer.Argument(help="a run's name or directory; see `sideways runs`", autocompletion=run_names)]
Runs = Annotated[Path, typer.Option("--runs", help="folder that holds this host's runs")]
Wait = Annotated[float, typer.Option(min=1, max=3600, help="seconds to wait for the run to execute the command")]
Json = Annotated[bool, typer.Option("--json", help="print JSON on standard output instead")]

_HERE, _WAIT = Path("runs"), 120.0
_TAKEN, _POLL = 10.0, 0.1  # seconds for a run to acknowledge a command; between polls for its answer
_SETTABLE = ("lr", "optimiser.lr")


@steer.command()
def runs(folder: Runs = _HERE, as_json: Json = False) -> None:
    """List the runs in Redis and on this host: name, state, tick, loss, accuracy, start, host."""
    from coordinator.cli.status_view import overview
    from coordinator.registry.run_finder import list_runs

    seen = list_runs(folder, lambda text: typer.echo(f"sideways: {text}", err=True))
    if as_json:
        print(json.dumps([_tree(run) for run in seen]))
    elif seen:
        console().print(overview(seen))
    else:
        print(f"no runs found, neither in {folder}/ nor in Redis")


@steer.command()
def status(run: Run, runs: Runs = _HERE, as_json: Json = False) -> None:
    """Show a run's status: tick, loss, accuracy, and where each stage's time goes."""
    from coordinator.cli.status_view import view
    from coordinator.registry.run_finder import get_run

    seen = get_run(run, runs)
    if as_json:
        print(json.dumps(_tree(seen)))
    else:
        console().print(view(seen))


@steer.command()
def top(run: Run, runs: Runs = _HERE) -> None:
    """Watch a run in the terminal until it ends, or until Ctrl-C."""
    from coordinator.cli.status_view import watch
    from coordinator.registry.run_finder import get_run

    with suppress(KeyboardInterrupt):
        watch(lambda: get_run(run, runs), console())


@steer.command()
def pause(run: Run, runs: Runs = _HERE, wait: Wait = _WAIT) -> None:
    """Pause a run until `sideways resume`."""
    _ask(run, runs, wait, do="pause")


@steer.command()
def resume(run: Run, runs: Runs = _HERE, wait: Wait = _WAIT) -> None:
    """Resume a paused run. (A run that has ended is resumed by `sideways train --resume`.)"""
    _ask(run, runs, wait, do="resume")


@steer.command()
def checkpoint(run: Run, runs: Runs = _HERE, wait: Wait = _WAIT) -> None:
    """Take a checkpoint of a run now."""
    _ask(run, runs, wait, do="checkpoint")


@steer.command()
def stop(run: Run, runs: Runs = _HERE, wait: Wait = _WAIT) -> None:
    """End a run early, as SIGTERM does: the model so far is kept."""
    _ask(run, runs, wait, do="stop")


@steer.command(name="set")
def change(
    run: Run,
    setting: Annotated[str, typer.Argument(help="lr=RATE: the new value of optimiser.lr")],
    runs: Runs = _HERE,
    wait: Wait = _WAIT,
) -> None:
    """Change the learning rate of a run from its next tick on."""
    _ask(run, runs, wait, do="set", lr=_rate(setting))


@steer.command()
def trace(
    run: Run,
    ticks: Annotated[int, typer.Option(min=1, max=MOST_TRACED, help="number of ticks to record")] = 100,
    out: Annotated[Path | None, typer.Option(help="also copy the trace to FILE.json or FILE.json.gz")] = None,
    runs: Runs = _HERE,
    wait: Wait = _WAIT,
) -> None:
    """Record a trace of the next ticks, for ui.perfetto.dev or chrome://tracing."""
    from coordinator.trace.copy import check, copy

    if out is not None:
        check(out)
    owner = _ask(run, runs, wait, do="trace", ticks=ticks)
    if out is not None:
        copy(owner, out)
        print(f"copied to {out}")


def _rate(setting: str) -> float:
    name, equals, value = setting.partition("=")
    if not equals or name.strip() not in _SETTABLE:
        raise ConfigError(
            f"{setting!r}: only the learning rate of a live run can be set, such as lr=0.001; for anything else stop "
            f"the run and resume it with `sideways train --resume RUN --set {name.strip() or 'section.key'}=…`"
        )
    with suppress(ValueError):
        if 0 <= (rate := float(value)) < float("inf"):
            return rate
    raise ConfigError(f"{setting!r}: the learning rate must be a finite number of at least 0, such as lr=0.001")


def _ask(run: str, runs: Path, wait: float, **fields: Any) -> "Owner":
    """Send a command to a run, wait for the answer and print it. Returns the owner of the run.

    Raises SidewaysError if the run is not running, does not carry the command out within `wait` seconds, or refuses.
    """
    from common.run_registry.records import LIVE, Command
    from coordinator.registry.run_finder import find

    found = find(run, runs)
    seen = found.get_run() if found else None
    if found is None or seen is None or seen.state not in LIVE:
        how = seen.state if seen else "its Redis server is gone"
        raise SidewaysError(f"{run} is not running ({how}): see `sideways status {run}`")
    command = Command(id=uuid.uuid4().hex, **fields)
    answer = _await(found, command, wait)
    if answer.state == "refused":
        raise SidewaysError(f"{found.name} refused `{command.do}`: {answer.text}")
    print(f"{found.name}: {answer.text}")
    return seen.status.owner


def _await(found: "RunAccess", command: "Command", wait: float) -> "Answer":
    start = time.monotonic()
    with found.explained():
        number = found.store.send_command(found.name, command)
        while True:
            answer = found.store.answer(found.name, command)
            if answer is not None and answer.state != "taken":
                return answer
            waited = time.monotonic() - start
            if answer is None and waited > min(wait, _TAKEN):
                found.store.withdraw_command(found.name, number)
                raise SidewaysError(
                    f"{found.name} has not received the command after {waited:.0f} s: is its coordinator alive?"
                )
            if waited > wait:
                raise SidewaysError(
                    f"{found.name} has received the command, but not finished it after {wait:g} s, perhaps because of "
                    f"an evaluation or a long trace: it still will; see `sideways status`"
                )
            time.sleep(_POLL)


def _tree(seen: "RunInfo") -> dict[str, Any]:
    return {**seen.status.model_dump(mode="json"), "state": seen.state}
