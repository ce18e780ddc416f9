"""The compose files: as many containers as the run has processes, whatever .env asks for."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.config.run_file import load
from common.config.settings import Config

ROOT = Path(__file__).parents[2]
DEFAULTS = dict(line.split("=", 1) for line in (ROOT / ".env").read_text().splitlines() if not line.startswith("#"))
REPLICATED = {"STAGES": "2", "REPLICAS": "2", "WORKERS": "4", "READERS": "2"}
_VARIABLE = re.compile(r"\$\{([A-Z_]+)(?::?-([^}]*))?\}")


def services(*names: str, **changes: str) -> dict[str, Any]:
    """The services of compose files, the last of which adds to the first, with the variables of .env and `changes`."""
    values, found = DEFAULTS | changes, dict[str, Any]()
    for name in names:
        text = _VARIABLE.sub(lambda match: values.get(match[1], match[2] or ""), (ROOT / name).read_text())
        for service, own in yaml.safe_load(text)["services"].items():
            found[service] = found.get(service, {}) | own
    return found


def config_of(coordinator: dict[str, Any]) -> Config:
    """What the coordinator's command line asks for."""
    _, file, *options = coordinator["command"]
    assignments = [option.removeprefix("--set=") for option in options]
    assert all(tomllib.loads(assignment) for assignment in assignments)
    return load(ROOT / file, assignments)


@pytest.mark.parametrize("changes", [{}, REPLICATED], ids=["default", "replicas"])
def test_there_is_a_container_for_every_process(changes: dict[str, str]) -> None:
    found = services("docker-compose.yml", **changes)
    config = config_of(found["coordinator"])
    assert (config.replicas, config.data.readers) == ((2, 2) if changes else (1, 0))
    assert found["stage"]["deploy"]["replicas"] == config.total_stages
    assert found["reader"]["deploy"]["replicas"] == config.data.readers
    for role in ("coordinator", "stage", "reader"):
        assert found[role]["command"][0] == role
        own = found[role]["environment"]
        assert (own["WORKERS"], own["READERS"]) == (config.total_stages, config.data.readers)
        assert own["MEETING"].startswith(found["coordinator"]["hostname"])
    assert found["reader"]["volumes"] == ["data:/work/data:ro"]
    assert "data:/work/data" in found["coordinator"]["volumes"]


@pytest.mark.parametrize("changes", [{}, REPLICATED], ids=["default", "replicas"])
def test_on_one_box_with_gpus_one_container_has_them_all(changes: dict[str, str]) -> None:
    found = services("docker-compose.yml", "docker-compose.gpu.yml", **changes)
    config = config_of(found["coordinator"])
    assert found["coordinator"]["command"][0] == "all"
    assert [found[role]["deploy"]["replicas"] for role in ("stage", "reader")] == ["0", "0"]
    own = services("docker-compose.yml", **changes)["coordinator"]["environment"]
    assert (own["WORKERS"], own["READERS"]) == (config.total_stages, config.data.readers)
