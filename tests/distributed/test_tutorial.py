"""The tutorial's commands, files and server, as docs/tutorial.md prints them, on small generated videos."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from tests.support.processes import environment, free_ports
from tests.support.videos import write_clip
from tests.support.waiting import wait_until

TUTORIAL = (Path(__file__).parents[2] / "docs/tutorial.md").read_text()
CLASSES = ("jump", "nothing", "wave")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TUTORIAL, re.DOTALL)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_phone_videos_become_a_served_model(tmp_path: Path) -> None:
    for number, name in enumerate(CLASSES):
        for clip in range(5):
            write_clip(tmp_path / "phone" / name / f"IMG {clip}.mov", 40, size=(48, 64), seed=10 * number + clip)
    (run_file,), (server,) = blocks("toml"), blocks("python")
    (tmp_path / "run.toml").write_text(small(run_file))
    (tmp_path / "serve.py").write_text(server)
    for commands in blocks("bash"):
        shell(commands, tmp_path)
    assert len(list((tmp_path / "videos/train").rglob("*.mov"))) == 12
    assert len(list((tmp_path / "videos/val").rglob("*.mov"))) == 3
    assert json.loads((tmp_path / "runs/phone/summary.json").read_text())["val_top1"] >= 0
    assert (tmp_path / "runs/phone/confusion.png").is_file()
    serve(tmp_path)


def small(run_file: str) -> str:
    """The tutorial's run file with less to do."""
    for large, little in {"epochs = 20": "epochs = 2", "width = 16": "width = 4", "slots = 16": "slots = 3"}.items():
        assert large in run_file
        run_file = run_file.replace(large, little)
    return run_file


def shell(commands: str, folder: Path) -> None:
    """Run commands of the tutorial, with `sideways` on the path."""
    (folder / "bin").mkdir(exist_ok=True)
    program = folder / "bin/sideways"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m coordinator "$@"\n')
    program.chmod(0o755)
    variables = {**environment(), "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-euc", commands], cwd=folder, env=variables, capture_output=True, text=True, timeout=150
    )
    assert done.returncode == 0, f"{commands}\n{done.stdout}\n{done.stderr}"


def serve(folder: Path) -> None:
    """Start the server, have a clip classified, and another refused."""
    port = free_ports(1)
    command = [sys.executable, "-m", "uvicorn", "serve:app", "--port", str(port)]
    log = folder / "log"
    with log.open("w") as out, subprocess.Popen(command, cwd=folder, env=environment(), stderr=out) as process:
        try:
            wait_until(lambda: "running on" in log.read_text(), 60)
            address = f"http://127.0.0.1:{port}/classify"
            clip = next((folder / "videos/val/wave").glob("*.mov")).read_bytes()
            with urlopen(Request(address, clip), timeout=30) as answer:
                scores = json.load(answer)
            assert sorted(scores) == list(CLASSES)
            assert sum(scores.values()) == pytest.approx(1)
            with pytest.raises(HTTPError, match="400"):
                urlopen(Request(address, b"no video"), timeout=30)
        finally:
            process.terminate()
