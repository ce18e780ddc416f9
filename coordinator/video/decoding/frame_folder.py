"""Folders of frames: their pictures, in order."""

from collections.abc import Sequence
from pathlib import Path
from re import split as split_by

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def pictures(folder: Path, pattern: str = "*") -> list[Path]:
    """The pictures of a folder that match `pattern`, in numeric order: 2 comes before 10. Raises OSError."""
    found = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in PICTURES and path.match(pattern) and not path.name.startswith(".") and path.is_file()
    ]
    return sorted(
        found, key=lambda path: [(int(part), "") if part.isdecimal() else (-1, part) for part in _parts(path)]
    )


def matching(pattern: str) -> str:
    """Describe which files of a folder are frames, for a message."""
    return f"frames that match {pattern!r} (with a suffix of {', '.join(PICTURES)})"


def kinds(files: Sequence[Path], setting: str = "data.frame_files") -> str:
    """Advice for when pictures' names begin differently, as in a folder with optical flow; else an empty string."""
    beginnings = sorted({_parts(path)[0] for path in files})
    if len(beginnings) < 2:
        return ""
    shown = ", ".join(f'"{beginning}*"' for beginning in beginnings[:5])
    return f"{'more than 5' if len(beginnings) > 5 else len(beginnings)} kinds of names, {shown}: set {setting} to one"


def _parts(path: Path) -> list[str]:
    return split_by(r"(\d+)", path.name)
