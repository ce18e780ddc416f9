"""The run directory: the resolved configuration, metrics.jsonl, the exported model, summary.json."""

import fcntl
import json
import os
import shutil
import time
from pathlib import Path
from typing import IO, Any

import tomli_w
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from common.config.settings import Config
from common.errors import SidewaysError
from common.run_registry.records import finite, stays
from coordinator.atomic_file import replacing

CONFIG, METRICS, SUMMARY, LOCK = "run.toml", "metrics.jsonl", "summary.json", ".lock"
PAUSED = ".paused"  # there while a run is paused, also over an automatic restart
MODEL, BEST = "model.safetensors", "best.safetensors"  # the newest, and that of the best evaluation

_OF_THE_MODEL = {"size", "resize", "channels", "bits", "mean", "std", "stride", "fps", "labels_of"}  # of data


class RunDirectory:
    """The files that a run writes. A failed write raises SidewaysError, except in `metric`: see `write_error`.

    Attributes:
        last_write_time: when an earlier attempt last wrote to metrics.jsonl, in seconds since 1970; None for a new run.
        write_error: why a line of metrics.jsonl could not be written; None if all were. The training continues.
    """

    def __init__(self, path: Path) -> None:
        """Open and lock a directory made by `create`, now or by an earlier attempt. Raises SidewaysError."""
        self.path = path
        self.write_error: str | None = None
        self._lock = lock(path)
        metrics = path / METRICS
        self.last_write_time = metrics.stat().st_mtime if metrics.is_file() else None
        try:
            self._metrics = open(self.path / METRICS, "a", encoding="utf-8", buffering=1)  # noqa: SIM115
        except OSError as error:
            raise write_failure(self.path, error) from error

    def close(self) -> None:
        """Close metrics.jsonl and release the lock."""
        self._metrics.close()
        self._lock.close()

    @property
    def paused(self) -> bool:
        """Whether the run was paused, and not resumed since."""
        return (self.path / PAUSED).exists()

    def set_paused(self, paused: bool) -> None:
        """Note it for later attempts. Raises SidewaysError."""
        try:
            if paused:
                (self.path / PAUSED).touch()
            else:
                (self.path / PAUSED).unlink(missing_ok=True)
        except OSError as error:
            raise write_failure(self.path, error) from error

    def truncate_from(self, tick: int, evaluated: bool) -> None:
        """Drop the lines of metrics.jsonl that a run resumed at `tick` will write again. Raises SidewaysError.

        Args:
            evaluated: the evaluation at `tick` is already done, so its line is kept.
        """
        path = self.path / METRICS
        try:
            with replacing(path) as part, open(path, encoding="utf-8") as lines, open(part, "wb") as kept:
                for line in lines:  # one by one: there may be many
                    if _stays(line, tick, evaluated):
                        kept.write(line.encode())
            self._metrics.close()
            self._metrics = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115
        except OSError as error:
            raise write_failure(self.path, error) from error

    def save_config(self, config: Config) -> None:
        """Write every setting, including defaults and the measured split, so that the file reproduces this run."""
        tree = config.model_dump(mode="json", exclude_none=True, exclude={"name"})
        self._write(CONFIG, tomli_w.dumps(tree))

    def metric(self, line: dict[str, Any]) -> None:
        """Append a line to metrics.jsonl. On failure, set `write_error` instead of raising."""
        try:
            self._metrics.write(_json({"time": round(time.time(), 3), **line}) + "\n")
        except OSError as error:
            self.write_error = str(error)

    def save_model(
        self, tensors: dict[str, Tensor], config: Config, classes: list[str], tick: int | None = None
    ) -> None:
        """Write the whole model's tensors, with the settings needed to use it as metadata. Raises SidewaysError.

        `tick`: the number of ticks that it was trained for.
        """
        about = {
            "format": "pt",
            "model": config.model,
            "model_args": json.dumps(config.model_args),
            "task": config.task,
            "classes": json.dumps(classes),
            "ahead": str(config.ahead),
            "answer": json.dumps(config.answer),
            "val_metrics": json.dumps(config.val_metrics),
            "data": config.data.model_dump_json(include=_OF_THE_MODEL),
        }
        if tick is not None:
            about["tick"] = str(tick)
        if config.skip_pairs:  # they connect stages, so the model is only whole with its split
            pipeline = config.model_dump(include={"stages", "split", "cuts"})
            edges = {"skips": config.skip_pairs, "network": {"edge_ticks": list(config.edge_ticks) or 1}}
            about["pipeline"] = json.dumps({**pipeline, **edges})
        try:
            with replacing(self.path / MODEL) as part:
                save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, part, about)
        except Exception as error:  # safetensors wraps OSError in its own exception class
            raise write_failure(self.path, error) from error

    def keep_best_model(self) -> None:
        """Keep the saved model as the best one, without a copy where links are possible. Raises SidewaysError."""
        try:
            with replacing(self.path / BEST) as part:
                part.unlink(missing_ok=True)
                try:
                    os.link(self.path / MODEL, part)  # the next model replaces the file, and does not write to it
                except OSError:
                    shutil.copyfile(self.path / MODEL, part)
        except OSError as error:
            raise write_failure(self.path, error) from error

    def save_summary(self, summary: dict[str, Any]) -> None:
        """Write summary.json. Raises SidewaysError."""
        self._write(SUMMARY, _json(summary) + "\n")

    def _write(self, name: str, text: str) -> None:
        try:
            with replacing(self.path / name) as part:
                part.write_text(text, encoding="utf-8")
        except OSError as error:
            raise write_failure(self.path, error) from error


def model_of(run: Path, best: bool) -> Path:
    """The file of a run directory's newest model, or of its best one. Raises SidewaysError if there is none."""
    file = run / (BEST if best else MODEL)
    if file.is_file():
        return file
    if best and (run / MODEL).is_file():
        raise SidewaysError(
            f"{file} does not exist: a run keeps its best model if it evaluates clips (data.val, evaluate_every)"
        )
    raise SidewaysError(f"{file} does not exist: pass a run directory that has saved its model, such as runs/digits-…")


def saved_tick(model: Path) -> int | None:
    """The tick of a saved model; None if there is none, or it is not known."""
    try:
        with safe_open(model, framework="pt") as opened:
            return int((opened.metadata() or {})["tick"])
    except (OSError, SafetensorError, KeyError, ValueError):
        return None


def _json(line: dict[str, Any]) -> str:
    """One line of JSON. NaN and infinities, which JSON lacks, become null."""
    return json.dumps(finite(line))


def _stays(line: str, tick: int, evaluated: bool) -> bool:
    """Whether a line of metrics.jsonl is complete and stays valid when the run is resumed at `tick`."""
    try:
        return stays(json.loads(line), tick, evaluated)
    except (ValueError, KeyError, TypeError):
        return False  # truncated: the process was killed while writing it


def lock(path: Path) -> IO[str]:
    """Lock the directory against other processes until the returned file is closed. Raises SidewaysError."""
    try:
        file = open(path / LOCK, "w", encoding="utf-8")  # noqa: SIM115
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SidewaysError(f"another process is training in {path}: stop it first, or wait until it ends") from None
    except OSError as error:
        raise write_failure(path, error) from error
    return file


def write_failure(path: Path, error: Exception) -> SidewaysError:
    return SidewaysError(f"cannot write to {path}: {error}. Free disk space there, or set runs to another folder")
