"""What several tests need: a run's settings, the reference on a run's own data, `sideways` in a subprocess."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from common.config import Config
from common.models import build, part
from common.objective import Target
from common.packet import Packet
from common.reference import Reference
from common.runfile import parse
from common.stage import Stage
from coordinator.course import Course, packet_of
from coordinator.stream.clips import find
from coordinator.stream.slots import Slots

STRAIGHT = 200  # ticks of the run that nothing disturbs
SPLITS = {1: [8], 2: [3, 5], 3: [2, 3, 3], 4: [2, 2, 2, 2], 5: [2, 2, 2, 1, 1]}


def settings(videos: Path, **changes: Any) -> dict[str, Any]:
    """A small run on the test videos. Keys of `changes` are written section__key."""
    tree: dict[str, Any] = {
        "model": "vgg8",
        "model_args": {"width": 4},
        "stages": 2,
        "ticks": 200,
        "device": "cpu",
        "threads": 1,
        "seed": 3,
        "data": {"train": str(videos / "train"), "slots": 3, "size": 16, "flip": 0.5},
        "optimiser": {"lr": 3e-3},
        "report": {"losses": True, "every": 0.2, "tensorboard": False, "redis": False},  # both cost time in every run
        "network": {"deadline": 20},
        "recovery": {"restarts": 0},  # what disturbs a run is to be seen
    }
    for key, value in changes.items():
        *sections, name = key.split("__")
        place = tree
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value
    if tree["model"] in ("vgg8", "autoencoder"):
        tree.setdefault("split", SPLITS[tree["stages"]])
    return tree


def config_of(videos: Path, **changes: Any) -> Config:
    """The same, validated."""
    return parse(settings(videos, **changes), "test")


def stages_of(config: Config, classes: int) -> list[Stage]:
    """Every stage of a run, as the workers build them."""
    model = build(config, classes)
    assert config.split is not None
    return [Stage(part(model, config.split, i), i, config, config.ticks or 0) for i in range(config.stages)]


def inputs_of(config: Config) -> Iterator[tuple[Packet, Target | None]]:
    """The run's own frames and targets, tick after tick."""
    assert config.data.train is not None
    clips = find(config.data.train, config.data.train_include, config.data.stride, config.task == "classify")
    slots = Slots(clips.clips, config.data, config.seed, train=True)
    course = Course(slots, config, ends=False)
    assert config.ticks is not None
    for tick in range(config.ticks):
        step = course.next()
        assert step is not None
        target = packet_of(step.target, config, tick)
        wanted = Target(target.tensor, target.clips) if config.task != "classify" else None
        yield packet_of(step.batch, config, tick), wanted
    slots.close()


def weights_of(stages: list[Stage]) -> dict[str, Tensor]:
    """What would be exported: the average of the weights, if there is one."""
    for stage in stages:
        stage.updater.swap_average()
    return {name: value.clone() for stage in stages for name, value in stage.blocks.state_dict().items()}


def reference_run(config: Config) -> tuple[list[float], dict[str, Tensor]]:
    """Losses and final parameters of the one-process reference on the run's own frames."""
    reference = Reference(stages_of(config, 3), config.frame_shape)
    losses = [reference.tick(packet, target) for packet, target in inputs_of(config)]
    return [float(loss) for loss in losses if loss is not None], weights_of(reference.stages)


def backpropagation_run(config: Config) -> tuple[list[float], dict[str, Tensor]]:
    """The same by plain backpropagation through all stages, micro-batch by micro-batch, in one process."""
    stages, losses = stages_of(config, 3), []
    size = config.data.slots // config.parts
    for tick, (packet, target) in enumerate(inputs_of(config)):
        parts = []
        for number in range(config.parts):
            rows = slice(number * size, (number + 1) * size)
            y = packet.tensor[rows]
            for stage in stages:
                y = stage.run(y, tick, number)
            parts.append(stages[-1].objective(y, packet, target, rows) / config.parts)
            parts[-1].backward()
        losses.append(float(torch.stack([loss.detach() for loss in parts]).sum()))
        for stage in stages:
            stage.update()
    return losses, weights_of(stages)


def write_run_file(path: Path, tree: dict[str, Any]) -> Path:
    """Write settings as TOML."""
    import tomli_w

    path.write_text(tomli_w.dumps(tree))
    return path


def sideways(
    *arguments: str | Path, cwd: Path, timeout: float = 120, before: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end. `before`: a folder that comes first on Python's path."""
    command = [sys.executable, "-P", "-m", "coordinator", *map(str, arguments)]
    found = environment()
    if before is not None:
        found["PYTHONPATH"] = f"{before}{os.pathsep}{found['PYTHONPATH']}"
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, errors="surrogateescape", timeout=timeout, env=found
    )


def environment() -> dict[str, str]:
    """The environment for a run started by a test, from any working directory."""
    root = str(Path(__file__).parent.parent)
    return {**os.environ, "PYTHONPATH": root, "COLUMNS": "140"}


class Background:
    """`sideways train` in the background, to be disturbed."""

    def __init__(self, run_file: Path, *arguments: str, under: Sequence[str] = ()) -> None:
        """`under`: a command that starts it, such as nohup."""
        self.folder = run_file.parent
        self.log = open(self.folder / "log", "w+")  # noqa: SIM115
        command = [*under, sys.executable, "-P", "-m", "coordinator", "train", str(run_file), *arguments]
        self.process = subprocess.Popen(
            command, cwd=self.folder, stdout=self.log, stderr=subprocess.STDOUT, env=environment()
        )

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl so far."""
        files = list(self.folder.glob("runs/*/metrics.jsonl"))
        if not files:
            return []
        complete = [text for text in files[0].read_text().splitlines(keepends=True) if text.endswith("\n")]
        return [json.loads(text) for text in complete]

    def wait_for_tick(self, tick: int, timeout: float = 60) -> None:
        """Wait until a stage has reported `tick`."""
        end = time.monotonic() + timeout
        while not any(line.get("tick", -1) >= tick for line in self.metrics()):
            assert self.process.poll() is None, f"ended early with {self.process.returncode}:\n{self.output()}"
            assert time.monotonic() < end, f"tick {tick} was not reached:\n{self.output()}"
            time.sleep(0.05)

    def wait_for_output(self, pattern: str, timeout: float) -> None:
        """Wait until something that matches `pattern` was printed."""
        end = time.monotonic() + timeout
        while not re.search(pattern, self.output()):
            assert time.monotonic() < end, f"no {pattern!r} within {timeout} s:\n{self.output()}"
            time.sleep(0.05)

    def members(self) -> dict[str, int]:
        """Process ids: coordinator, stage0 … by rank, and redis."""
        import psutil

        pids: dict[str, int] = {}
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.Error):  # it may just be ending
                command = " ".join(child.cmdline())
                if "redis-server" in command:
                    pids["redis"] = child.pid
                elif "coordinator.stream.decoder" not in command:  # what a member starts itself has its rank too
                    rank = int(child.environ().get("RANK", -1))  # none yet: it is just being started
                    if rank >= 0:
                        pids.setdefault("coordinator" if rank == 0 else f"stage{rank - 1}", child.pid)
        return pids

    def send(self, number: signal.Signals) -> None:
        """Signal the launcher."""
        self.process.send_signal(number)

    def end(self, timeout: float) -> int:
        """Wait for the launcher's end. Returns its exit code."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"still running after {timeout} s:\n{self.output()}") from None

    def output(self) -> str:
        """All that was printed so far."""
        self.log.flush()
        return (self.folder / "log").read_text()


def free_ports(count: int) -> int:
    """The first of so many ports in a row, below those that the system hands out, that nobody holds now."""
    for first in range(20010 + os.getpid() % 1000 * 10, 32000, count):
        with contextlib.ExitStack() as held:
            try:
                for port in range(first, first + count):
                    held.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return first
    raise AssertionError("no free ports")


def wait_until(what: Callable[[], Any], seconds: float = 60) -> Any:
    """What it returns, as soon as that is something."""
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


def gone(pids: Sequence[int], timeout: float) -> bool:
    """Whether all processes end within `timeout` seconds."""
    end = time.monotonic() + timeout
    while any(_alive(pid) for pid in pids):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def _alive(pid: int) -> bool:
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:  # also when it ended just now
        return False


def slow_run(videos: Path, **changes: Any) -> dict[str, Any]:
    """Slow enough to be killed in time: some 6 ms a tick."""
    slow = {"model_args": {"width": 12}, "data__size": 32, "data__slots": 8, "stages": 3, "name": "it"}
    return settings(videos, **{**slow, "ticks": STRAIGHT, "checkpoint__every": 50, "checkpoint__keep": 9, **changes})


def train(folder: Path, tree: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    done = sideways("train", write_run_file(folder / "run.toml", tree), cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "it"


def losses_of(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [loss for line in lines for loss in line.get("losses", [])]


def same_model(first: Path, second: Path) -> bool:
    models: list[dict[str, Tensor]] = [load_file(run / "model.safetensors") for run in (first, second)]
    return set(models[0]) == set(models[1]) and all(torch.equal(models[0][name], models[1][name]) for name in models[0])
