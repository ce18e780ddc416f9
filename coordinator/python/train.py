"""`sideways.train`: a run from a script or a notebook."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import tomli_w

from common import errors
from common.config.run_file import changed
from common.config.settings import Config
from common.errors import ConfigError, PeerError, SidewaysError
from common.models.user_code import end_import
from common.processes.caller import read_directory, read_errors
from coordinator.python.follower import Event, Follower, Stop
from coordinator.python.overwriting import overwriting
from coordinator.python.reference import dataset_reference, reference
from coordinator.python.result import Result, read_result
from coordinator.python.run_process import RunProcess
from coordinator.run_directory import CONFIG
from coordinator.run_names import is_taken

Callback = Callable[[Event], object]


def train(
    run: str | Path | Config | None = None,
    /,
    *,
    model: str | Callable[..., Any] | None = None,
    dataset: object = None,
    validation: object = None,
    resume: str | Path | Result | None = None,
    overwrite: bool = False,
    callbacks: Callback | Sequence[Callback] = (),
    **settings: Any,
) -> Result:
    """Train on this machine, in a coordinator process and one process per stage, and wait until the training ends.

    Works in a script, with or without `if __name__ == "__main__":`, and in a notebook. Ctrl-C, or interrupting the
    kernel, stops the run in order, with its model saved, before KeyboardInterrupt is raised.

    Args:
        run: run file (TOML), or a Config; default: the settings alone, or the run file of the resumed run.
        model: instead of the setting, a function or class of an importable file that gives an nn.Module, best an
            nn.Sequential of blocks.
        dataset, validation: instead of data.train and data.val, a map-style or iterable torch Dataset at the top level
            of an importable file, or a function or class there that makes one; or a string, as in a run file.
        resume: run directory, or its Result, to resume from its newest checkpoint.
        overwrite: an earlier run of this `name` is replaced: its directory is removed once the new run has trained.
        callbacks: one or several; each is called in this thread with each event of the run, a line of metrics.jsonl as
            a dictionary; `event["kind"]` is "progress", "evaluation", "probe", "set", "restart" or "heal".
            `raise sideways.Stop` ends the training; another exception stops it, too, and is passed on.
        settings: override those of `run`: `stages=2`, sections as dictionaries, `optimiser={"lr": 1e-3}`, or as on the
            command line, `**{"optimiser.lr": 1e-3}`. `loss`, and each of `val_metrics`, may also be a
            function of an importable file.

    Returns:
        Its directory, summary and curves; also if the run was stopped early, by Stop or by `sideways stop`.

    Raises:
        ConfigError: a setting is unknown or invalid, or the model cannot be imported or does not fit.
        DataError: the videos cannot be used.
        SidewaysError: the run failed, with its own message, or the name is taken.
    """
    callbacks = [callbacks] if callable(callbacks) else callbacks
    if not isinstance(callbacks, Sequence) or not all(map(callable, callbacks)):
        raise ConfigError("callbacks must be a function, or a list of functions")
    end_import()  # the processes of a run import this script for its model: no run within a run
    if not isinstance(run, str | Path | Config | None):
        raise ConfigError(
            "pass a run file or a sideways.Config, and settings by keyword: train(stages=2) or train(**yours)"
        )
    settings |= _imported(model, dataset, validation, settings)
    origin = Path(run) if isinstance(run, str) else run
    resume = resume.directory if isinstance(resume, Result) else resume
    if resume is not None:
        _check_resumed(Path(resume), overwrite)
        origin = origin or Path(resume) / CONFIG
    _check_data(origin is not None, settings)
    config = changed(origin, settings)
    directory = config.runs / config.name if config.name and resume is None else None
    if directory is not None and not overwrite:
        _refuse_taken(directory)
    replaced = overwriting(directory) if directory is not None and overwrite else nullcontext()
    with replaced, tempfile.TemporaryDirectory(prefix="sideways-", ignore_cleanup_errors=True) as folder:
        file = Path(folder) / (origin.name if isinstance(origin, Path) else CONFIG)  # runs are named after it
        file.write_text(tomli_w.dumps(config.model_dump(mode="json", exclude_none=True)), encoding="utf-8")
        arguments = [str(file), *(["--resume", str(resume)] if resume is not None else [])]
        return _run(arguments, Path(folder), callbacks)


def _imported(
    model: str | Callable[..., Any] | None, dataset: object, validation: object, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The settings that name what the processes of the run import."""
    found: dict[str, Any] = {}
    if model is not None:
        found["model"] = model if isinstance(model, str) else reference(model)
    for keyword, name, given in (("dataset", "train", dataset), ("validation", "val", validation)):
        if given is not None:
            found[f"data.{name}"] = dataset_reference(given, keyword)
    if callable(loss := settings.get("loss")):
        found["loss"] = reference(loss, "loss")
    if isinstance(metrics := settings.get("val_metrics"), list | tuple):
        found["val_metrics"] = [reference(each, "val_metrics") if callable(each) else each for each in metrics]
    return found


def _check_data(has_origin: bool, settings: Mapping[str, Any]) -> None:
    """Raise ConfigError if there are no data at all, or not as a section."""
    remedy = 'pass data={"train": "folder of videos"} or dataset=…'
    if not isinstance(data := settings.get("data", {}), Mapping):
        raise ConfigError(f"data = {str(data)!r} is no section of settings: {remedy}")
    if not has_origin and not any(name.partition(".")[0] == "data" for name in settings):
        raise ConfigError(f"there are no data to train on: {remedy}")


def _check_resumed(directory: Path, overwrite: bool) -> None:
    if overwrite:
        raise ConfigError("pass resume or overwrite, not both: a resumed run goes on in its own directory")
    if not (directory / CONFIG).is_file():
        raise ConfigError(f"resume={str(directory)!r}: there is no {CONFIG} in it; pass a run directory")


def _refuse_taken(directory: Path) -> None:
    if is_taken(directory):
        raise SidewaysError(
            f"the run directory {directory} already exists: go on with it by resume={str(directory)!r}, replace it by "
            "overwrite=True, or choose another name"
        )


def _run(arguments: Sequence[str], folder: Path, callbacks: Sequence[Callback]) -> Result:
    follower, process = Follower(callbacks), RunProcess(arguments, folder)

    def follow() -> None:
        if (directory := read_directory(folder)) is not None:
            follower.follow(directory)

    try:
        with suppress(Stop):
            process.wait(follow)
            follow()
    finally:
        follower.close()
    code, directory = process.code, read_directory(folder)
    stopped = code > 128
    if directory is None or not (code == 0 or stopped):
        raise _error(read_errors(folder), code)
    try:
        return read_result(directory)
    except OSError:  # stopped too early
        raise SidewaysError(f"the run was stopped before its first tick (exit code {code})") from None


def _error(told: Sequence[tuple[str, str]], code: int) -> SidewaysError:
    """The error that the run's processes told. They may have told it several times, with and without a traceback."""
    texts = list(dict.fromkeys(text for _, text in told))
    short = [text for text in texts if not any(other != text and other in text for other in texts)]
    kinds = [getattr(errors, kind) for kind, _ in told if hasattr(errors, kind)]
    kind = kinds[0] if kinds else {2: ConfigError, 3: PeerError}.get(code, SidewaysError)
    return kind("\n".join(short) or f"the run ended with exit code {code}, see its output")
