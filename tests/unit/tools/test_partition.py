"""`sideways partition`: its arguments and tables."""

import math
from pathlib import Path

import pytest
from rich.console import Console

from common.errors import ConfigError
from coordinator.tools.partition import Arrangement, arrangements, compare, show, stage_counts
from tests.support.settings import config_of


def test_numbers_of_stages_are_parsed() -> None:
    assert stage_counts("3") == [3]
    assert stage_counts("1..4") == [1, 2, 3, 4]
    assert stage_counts("1,2,4") == [1, 2, 4]


@pytest.mark.parametrize("text", ["", "0..3", "4..1", "1..999", "two", "1,,2", "-1"])
def test_invalid_numbers_of_stages_are_an_error(text: str) -> None:
    with pytest.raises(ConfigError, match=r"use the form 4, 1..4 or 1,2,4"):
        stage_counts(text)


def test_several_numbers_of_stages_give_one_table(tmp_path: Path) -> None:
    config = config_of(tmp_path, stages=2, split=[6, 2])
    comparison = compare(config, 5, [Arrangement(1, count) for count in (1, 2, 8)], print)
    one, given, all_alone = comparison.predictions
    assert one.split == [8]
    assert one.efficiency == pytest.approx(1)
    assert given.split == [6, 2]  # the run file's split
    assert all_alone.split == [1] * 8
    assert max(all_alone.memory_mib) < one.memory_mib[0]
    tree = comparison.tree()
    assert [row["stages"] for row in tree["splits"]] == [1, 2, 8]
    assert [block["name"] for block in tree["blocks"]] == [*(f"conv{n}" for n in range(1, 8)), "head"]
    console = Console(record=True, width=120)
    show(comparison, console)
    assert "1+1+1+1+1+1+1+1" in console.export_text()


def test_one_number_of_stages_shows_each_stage(tmp_path: Path) -> None:
    comparison = compare(config_of(tmp_path, stages=2, split=[6, 2]), 5, [Arrangement(1, 2)], print)
    console = Console(record=True, width=120)
    show(comparison, console)
    text = console.export_text()
    assert "conv1 … conv6" in text
    assert "conv7 … head" in text
    assert f"{comparison.predictions[0].tick_ms:.2f} ms" in text


def test_more_stages_than_blocks_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="use at most 8 stages"):
        compare(config_of(tmp_path, cuts="blocks"), 5, [Arrangement(1, 9)], print)


def test_numbers_of_stages_for_which_the_model_has_too_few_blocks_are_left_out(tmp_path: Path) -> None:
    warnings: list[str] = []
    numbers = [Arrangement(1, count) for count in (2, 9, 12)]
    comparison = compare(config_of(tmp_path, cuts="blocks", split=None), 5, numbers, warnings.append)
    assert [arrangement.stages for arrangement in comparison.arrangements] == [2]
    assert warnings == ["the model has too few blocks for 9, 12 stages: they are left out"]


def test_more_stages_than_blocks_are_balanced_by_layers(tmp_path: Path) -> None:
    few, many = compare(config_of(tmp_path), 5, [Arrangement(1, 4), Arrangement(1, 12)], print).predictions
    assert (len(few.split), sum(few.split)) == (4, 8)
    assert (len(many.split), sum(many.split)) == (12, 24)


def test_processes_are_arranged_as_replicas_of_pipelines(tmp_path: Path) -> None:
    assert arrangements(8, 4) == [(4, 2), (2, 4), (1, 8)], "eight replicas have no slot each"
    comparison = compare(config_of(tmp_path, data__slots=4, stages=1), 5, arrangements(4, 4), print)
    parallel, both, pipeline = comparison.tree()["splits"]
    assert [(row["replicas"], row["stages"]) for row in (parallel, both, pipeline)] == [(4, 1), (2, 2), (1, 4)]
    assert parallel["frames_per_second"] == pytest.approx(4e3 / parallel["tick_ms"])
    console = Console(record=True, width=120)
    show(comparison, console)
    assert "replicas" in console.export_text()


def test_more_processes_than_stages_may_be_is_an_error() -> None:
    with pytest.raises(ConfigError, match="--processes 257"):
        arrangements(257, 3)


def test_skips_and_memory_are_in_the_tables(tmp_path: Path) -> None:
    config = config_of(tmp_path, stages=4, skips=[[0, 2], [0, 3]], model_args={"temporal": "motion"})
    two, four = compare(config, 5, [Arrangement(1, 2), Arrangement(1, 4)], print).predictions
    assert two.skips == [], "two stages have none of them"
    assert [(skip.source, skip.target) for skip in four.skips] == [(0, 2), (0, 3)]
    comparison = compare(config, 5, [Arrangement(1, 4)], print)
    slots, *frame = config.frame_shape
    remembered = comparison.costs[0][0].remembered_kib / slots
    assert remembered == 7 * math.prod(frame) * 4 / 1024  # of seven frames
    blocks = sum(cost.milliseconds for cost in comparison.costs[0])
    assert sum(comparison.predictions[0].stage_ms) > blocks
    assert len(comparison.tree()["splits"][0]["skips"]) == 2
    console = Console(record=True, width=160)
    show(comparison, console)
    text = console.export_text()
    assert f"{remembered:.1f}" in text
    assert f"{comparison.predictions[0].skips[0].pooling.activation_kib:.0f}" in text
    assert "projection ms" in text
