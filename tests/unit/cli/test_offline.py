"""`sideways ticks`, and the arguments of other commands that need no run."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from common.config.settings import Config
from common.errors import ConfigError
from common.rule.schedule import Schedule
from coordinator.cli.offline import tools
from tests.support.settings import settings, write_run_file


def run(*arguments: str | Path, width: int = 200) -> str:
    result = CliRunner().invoke(tools, [*map(str, arguments)], env={"COLUMNS": str(width)})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


def test_ticks_prints_the_schedule() -> None:
    assert Schedule(3).table(7) in run("ticks", "--stages", "3", "--ticks", "7")
    assert run("ticks", "--stages", "3").startswith(Schedule(3).table(7))


@pytest.mark.parametrize(("stages", "width"), [(3, 50), (200, 80), (256, 300), (1, 20)])
def test_the_schedule_fits_the_terminal(stages: int, width: int) -> None:
    rows = run("ticks", "--stages", str(stages), width=width).splitlines()[:-1]
    assert len(rows) == stages + 1
    assert all(len(row) <= max(width, 32) for row in rows)  # at least one tick is drawn


def test_large_tick_numbers_stay_separated() -> None:
    row = run("ticks", "--stages", "2", "--ticks", "300").splitlines()[2]
    assert re.findall(r"f\d+ g\d+", row) == [f"f{tick - 1} g{tick - 1}" for tick in range(1, 300)]
    assert "f298 g298 " in row


def test_ticks_tells_what_skips_bring() -> None:
    last = run("ticks", "--stages", "4", "--skips", "[[0, 2]]").splitlines()[-1]
    assert last.startswith("skip 0 → 2: brings a frame 1 newer")
    assert last.endswith("the loss on a frame 5 older than the one that it holds")


@pytest.mark.parametrize("arguments", [("0",), ("257",), ("3", "--ticks", "0"), ("3", "--ticks", "1001")])
def test_numbers_out_of_range_are_refused(arguments: tuple[str, ...]) -> None:
    result = CliRunner().invoke(tools, ["ticks", "--stages", *arguments])
    assert result.exit_code == 2
    assert f"Invalid value for '{'--ticks' if len(arguments) > 1 else '--stages'}'" in result.output


def test_the_number_of_classes_comes_from_the_videos_or_the_user(videos: Path, tmp_path: Path) -> None:
    run_file = write_run_file(tmp_path / "run.toml", settings(videos))
    json.loads(run("partition", run_file, "--json").splitlines()[-1])
    elsewhere = ("partition", run_file, "--set", "data.train=nowhere")
    tree = json.loads(run(*elsewhere, "--classes", "7", "--json", "--stages", "1,2").splitlines()[-1])
    assert [row["stages"] for row in tree["splits"]] == [1, 2]
    head = tree["blocks"][-1]
    assert head["parameters"] == 16 * 7 + 7
    with pytest.raises(ConfigError, match=r"there is no folder nowhere.* pass --classes"):
        run(*elsewhere)


def test_weights_are_accepted_as_a_setting() -> None:
    assert Config.model_validate({"ticks": 1, "weights": "w.pth", "data": {"train": "."}}).weights == Path("w.pth")
