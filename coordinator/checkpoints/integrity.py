"""Whether a checkpoint on disk is complete, undamaged and of this model."""

import hashlib
import re
from pathlib import Path

from common.checkpoint_reader import CheckpointReader
from common.errors import SidewaysError
from common.rule.skips import SKIPS

_FILE = re.compile(r"(replica-[0-9]+/)?[^/]+")  # a file's name, from the checkpoint's folder on


def check_files(path: Path, files: dict[str, tuple[int, str]]) -> None:
    """Check sizes and checksums of a checkpoint's files, by name. Raises SidewaysError."""
    for name, (size, digest) in files.items():
        file = path / name
        if not _FILE.fullmatch(name) or not file.is_file():
            raise SidewaysError(f"{path} is not a complete checkpoint: {name} is missing")
        if file.stat().st_size != size:
            raise SidewaysError(f"{file} is truncated: it has {file.stat().st_size} of {size} bytes")
        if digest_of(file) != digest:
            raise SidewaysError(f"{file} is damaged: its checksum does not match the one recorded when it was written")


def check_shapes(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """Check that a checkpoint is of a model whose parameters and buffers have these shapes. Raises SidewaysError."""
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    try:
        entries = CheckpointReader(path).read_metadata().state_dict_metadata
    except Exception as error:
        raise SidewaysError(f"{path} is not a complete checkpoint: {error}") from error
    tensors = {name: entry for name, entry in entries.items() if isinstance(entry, TensorStorageMetadata)}
    of_blocks = (name for name in tensors if name.startswith("model.") and not name.startswith(f"model.{SKIPS}"))
    found = {name: tuple(tensors[name].size) for name in of_blocks}
    expected = {f"model.{name}": shape for name, shape in shapes.items()}
    if found != expected:
        different = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        name = different[0].removeprefix("model.")
        raise SidewaysError(
            f"{path} is of another model: {name} is {_text(found.get(different[0]))} there and "
            f"{_text(expected.get(different[0]))} here ({len(different)} tensors differ)"
        )


def _text(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else str(list(shape))


def digest_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal. Raises OSError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
