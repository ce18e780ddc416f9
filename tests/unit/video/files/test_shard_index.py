"""What remote shards hold is read before they are downloaded, and is what their copies hold."""

from pathlib import Path
from typing import Any

import pytest

from common.config.settings import Data
from common.errors import DataError
from coordinator.video.files.clips import collect
from coordinator.video.files.shard_index import _Part
from tests.support.shards import served, write_shards
from tests.support.videos import write_clip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards of three clips."""
    root = tmp_path_factory.mktemp("shards")
    files = [write_clip(root / f"{n}.mp4", 6 + n, seed=n) for n in range(3)]
    files += [write_clip(root / f"{n}.avi", 6 + n, codec="mpeg4") for n in range(3, 6)]
    write_shards(root / "shards", [(path, n % 3) for n, path in enumerate(files)], 3)
    return root / "shards"


@pytest.fixture(autouse=True)
def by_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordinator.video.files.shards._SMALL", 0)
    monkeypatch.setattr("coordinator.video.files.shard_index._PIECE", 4096)


def data_of(train: str | Path, folder: Path, **changes: Any) -> Data:
    return Data(train=train, size=16, shard_cache=folder, **changes)


def test_clips_are_listed_by_parts_as_they_are_from_copies(root: Path, tmp_path: Path) -> None:
    with served(root, parts=True) as (address, asked):
        found = collect(data_of(f"{address}/{{000..001}}.tar", tmp_path / "new"), "train")
        assert {path.removesuffix(" in part") for path in asked} == {"/000.tar", "/001.tar"}
        assert all(path.endswith(" in part") for path in asked)
        assert not list(tmp_path.glob("**/*.tar"))
        asked.clear()
        assert collect(data_of(f"{address}/{{000..001}}.tar", tmp_path / "new"), "train").clips == found.clips
        assert not asked, "they are known from the run before"
    expected = collect(data_of(root, tmp_path), "train").clips
    assert [(clip.label, clip.frames) for clip in found.clips] == [(clip.label, clip.frames) for clip in expected]
    places = [(clip.member.offset, clip.member.size) for clip in found.clips if clip.member]
    assert places == [(clip.member.offset, clip.member.size) for clip in expected if clip.member]


def test_where_parts_cannot_be_read_shards_are_downloaded(root: Path, tmp_path: Path) -> None:
    with served(root) as (address, asked):
        assert len(collect(data_of(f"{address}/000.tar", tmp_path), "train").clips) == 3
        assert asked[-1] == "/000.tar"
    assert len(list(tmp_path.glob("*.tar"))) == 1


def test_a_connection_that_fails_once_is_no_damage(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FFmpeg would tell it as such, and it would be remembered."""
    reads, read = [0], _Part.readinto

    def failing(part: _Part, buffer: Any) -> int:
        reads[0] += 1
        if reads[0] == 3:
            monkeypatch.setattr(part, "_stream", None)  # any error of any library
        return read(part, buffer)

    monkeypatch.setattr(_Part, "readinto", failing)
    with served(root, parts=True) as (address, _):
        found = collect(data_of(f"{address}/000.tar", tmp_path), "train")
    assert len(found.clips) == 3
    assert not found.bad
    assert reads[0] >= 3


def test_a_remote_shard_that_is_cut_short_is_named(root: Path, tmp_path: Path) -> None:
    (tmp_path / "cut").mkdir()
    whole = (root / "000.tar").read_bytes()
    (tmp_path / "cut/000.tar").write_bytes(whole[: len(whole) // 2])
    with served(tmp_path / "cut", parts=True) as (address, _):
        found = collect(data_of(f"{address}/000.tar", tmp_path), "train")
    assert 0 < len(found.clips) < 3
    (reason,) = found.bad.values()
    assert reason.startswith("it is cut short: the ")


def test_a_shard_too_large_for_the_cache_is_refused_before_the_run(root: Path, tmp_path: Path) -> None:
    with (
        served(root, parts=True) as (address, _),
        pytest.raises(DataError, match="shard_cache_size = 1000: raise that"),
    ):
        collect(data_of(f"{address}/000.tar", tmp_path, shard_cache_size=1000), "train")
