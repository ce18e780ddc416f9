"""The GPU drill reports every step, whatever happens in it."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks.drill import __main__ as drill
from benchmarks.drill.steps import MORE, STEPS, Step


def outcome(code: str, limit: float = 30.0) -> drill.Outcome:
    """Of a step that runs this code."""
    return drill._run(["-c", code], limit)


def test_the_figures_are_the_last_line() -> None:
    found = outcome("print('progress'); print('{\"ms\": 3}')")
    assert found["status"] == "ok"
    assert found["figures"] == {"ms": 3}


def test_a_failed_step_is_reported_with_its_output() -> None:
    found = outcome("import sys; print('first'); sys.exit('no such device')")
    assert found["status"] == "failed: exit status 1: no such device"
    assert found["output"] == ["first", "no such device"]
    assert outcome("print('done')")["status"] == "failed: the last line is not JSON: done"
    assert outcome("pass")["status"] == "failed: the last line is not JSON"


def test_a_step_that_hangs_is_killed_with_its_children() -> None:
    code = (
        "import subprocess, sys, time; subprocess.Popen(['sleep', '60']); print('waiting', flush=True); time.sleep(60)"
    )
    found = outcome(code, limit=2.0)
    assert found["status"] == "failed: not done after 2 s: waiting"


def test_steps_are_skipped_without_a_gpu_or_time() -> None:
    step = Step("it", ["-c", "print(1)"], 30)
    assert drill._outcome(step, dry=True, left=10)["status"] == "skipped: not in a dry run"
    assert drill._outcome(step, dry=False, left=20)["status"] == "skipped: 20 s are left, and it may take 30"
    assert drill._outcome(step, dry=False, left=30)["status"] == "ok"
    assert len({step.name for step in (*STEPS, *MORE)}) == len(STEPS) + len(MORE)
    assert sum(step.seconds for step in STEPS) < 480


def test_the_last_line_names_every_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = (Step("good", ["-c"], 30, dry=["print(1)"]), Step("bad", ["-c"], 30, dry=["1 / 0"]), Step("gpu", [], 30))
    monkeypatch.setattr(drill, "STEPS", steps)
    monkeypatch.setattr(drill, "MORE", ())
    monkeypatch.setattr(sys, "argv", ["drill", "--dry-run", "--out", str(tmp_path / "gpu.json")])
    with pytest.raises(SystemExit) as ended:
        drill.main()
    assert ended.value.code == 1
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    error = "failed: exit status 1: ZeroDivisionError: division by zero"
    assert last == {"steps": {"good": "ok", "bad": error, "gpu": "skipped"}}
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert report["device"] == "CPU (dry run)"
    assert report["steps"]["gpu"]["status"] == "skipped: not in a dry run"
