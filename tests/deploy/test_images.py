"""The images that the compose files and manifests name."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = [*ROOT.glob("docker-compose*.yml"), *(ROOT / "deploy").glob("k8s*/*.yaml")]
OURS = "sideways:local"  # built from deploy/Dockerfile


def test_images_of_others_are_pinned_to_a_version_and_the_same_everywhere() -> None:
    found = [tuple(image.split(":", 1)) for file in FILES for image in re.findall(r"image: (\S+)", file.read_text())]
    others = {image for image in found if ":".join(image) != OURS}
    assert {name for name, _ in others} == {"redis", "prom/prometheus", "grafana/grafana"}
    assert all(re.match(r"v?\d+\.\d+\.\d+", tag) for _, tag in others), others
    assert len(others) == len({name for name, _ in others}), "one version of each"
