"""`sideways ticks --simulate`."""

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from common.errors import ConfigError
from coordinator.cli.offline import tools


def run(*values: str, stages: int = 3, edge_ticks: str = "1") -> str:
    options = [part for value in values for part in ("--simulate", value)]
    arguments = ["ticks", "--stages", str(stages), "--edge-ticks", edge_ticks, *options, "--json"]
    result = CliRunner().invoke(tools, arguments, env={"COLUMNS": "120"})
    if result.exception:
        raise result.exception
    return result.output


def figures(*values: str, **options: Any) -> Any:
    return json.loads(run(*values, **options).splitlines()[-1])


def test_it_tells_the_pace_the_idle_share_and_the_mismatch() -> None:
    found = figures("compute=20", "delay=50")
    assert found["tick_ms"] == pytest.approx(100, rel=0.02)
    assert found["ticks_per_second"] == pytest.approx(10, rel=0.02)
    assert found["idle"] == pytest.approx([0.8] * 3, abs=0.01)
    assert found["mismatch"] == [4, 2, 0]
    assert found["edge_ticks"] == [1, 1]
    assert "a tick takes 100 ms: 10 ticks/s" in run("compute=20", "delay=50")


def test_edge_ticks_may_be_given_or_found() -> None:
    assert figures("compute=20", "delay=[0, 50]", edge_ticks="auto")["edge_ticks"] == [1, 4]
    found = figures("compute=20", "delay=[0, 50]", edge_ticks="[1, 4]")
    assert (found["tick_ms"], found["mismatch"]) == (pytest.approx(20), [10, 8, 0])


def test_a_lists_values_are_the_stages_or_the_edges() -> None:
    found = figures("compute=[10, [5, 10, 5], 40]")
    assert found["tick_ms"] == pytest.approx(40)
    assert found["idle"] == pytest.approx([0.75, 0.5, 0.0])
    narrow = figures("compute=20", "size=64", "rate=10", edge_ticks="4")
    assert narrow["tick_ms"] == pytest.approx(2 * 64 * 1024 * 8 / 10e6 * 1e3, rel=0.02)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("delay=50",), "compute"),
        (("compute=20", "dealy=50"), "dealy"),
        (("compute=20", "delay=-1"), "greater than or equal to 0"),
        (("compute=[20, 20]",), "has 2 values for 3"),
        (("compute=20", "loss=[0.1]"), "has 1 values for 2"),
        (("compute",), "--simulate compute: write it as key=value"),
    ],
)
def test_what_it_does_not_know_is_refused(values: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(*values)


def test_auto_needs_times() -> None:
    with pytest.raises(ConfigError, match="needs the times"):
        run(edge_ticks="auto")


def test_one_stage_has_no_edges() -> None:
    assert figures("compute=20", stages=1)["idle"] == [0.0]
