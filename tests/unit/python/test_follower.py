"""Following a metrics.jsonl."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from coordinator.python.follower import Follower


def line(tick: int, at: float, end: str = "\n") -> str:
    return json.dumps({"time": at, "kind": "progress", "tick": tick}) + end


def test_each_new_line_is_passed_on_once(tmp_path: Path) -> None:
    """Not those of an earlier training, nor again when a restart replaces the file; a line only when complete."""
    seen: list[Any] = []
    follower, file = Follower([seen.append]), tmp_path / "metrics.jsonl"
    follower.follow(tmp_path)
    now = time.time()
    with open(file, "w") as out:
        out.write(line(1, now - 60) + line(2, now + 1) + line(3, now + 1) + line(4, now + 2, end=""))
        out.flush()
        follower.follow(tmp_path)
        assert [event["tick"] for event in seen] == [2, 3]
        out.write("\n")
    follower.follow(tmp_path)
    assert [event["tick"] for event in seen] == [2, 3, 4]
    (tmp_path / "part").write_text(line(1, now - 60) + line(2, now + 1) + line(3, now + 9))
    os.replace(tmp_path / "part", file)
    follower.follow(tmp_path)
    follower.follow(tmp_path)
    assert [event["tick"] for event in seen] == [2, 3, 4, 3]
    follower.close()


def test_a_callbacks_exception_is_passed_on(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(line(1, time.time() + 1))
    follower = Follower([lambda event: 1 / 0])
    with pytest.raises(ZeroDivisionError):
        follower.follow(tmp_path)
    follower.close()
