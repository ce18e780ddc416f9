"""Shards of servers that send only whole files: downloaded as a stream, within bounds, and the user is told."""

import re
import time
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from common.config.settings import Data
from common.errors import DataError
from coordinator.video.files.clips import collect
from tests.support.shards import served, write_shards
from tests.support.videos import write_clip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards of two clips."""
    root = tmp_path_factory.mktemp("shards")
    files = [write_clip(root / f"{n}.mp4", 6 + n, seed=n) for n in range(4)]
    write_shards(root / "shards", [(path, n % 2) for n, path in enumerate(files)], 2)
    return root / "shards"


@pytest.fixture(autouse=True)
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the shards were large, and without pauses before a download is tried again."""
    monkeypatch.setattr("coordinator.video.files.shards._SMALL", 0)
    monkeypatch.setattr("coordinator.video.files.shard_index._PIECE", 4096)
    monkeypatch.setattr("coordinator.video.files.shard_source._PIECE", 4096)
    monkeypatch.setattr("coordinator.video.files.shard_source._PAUSES", (0.01,))


def data_of(address: str, folder: Path, **changes: Any) -> Data:
    return Data(train=f"{address}/{{000..001}}.tar", size=16, shard_cache=folder, **changes)


def test_a_shard_of_many_pieces_is_downloaded_and_the_user_is_told_once(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with served(root) as (address, asked):
        assert len(collect(data_of(address, tmp_path), "train").clips) == 4
        told = capsys.readouterr().err
        assert len(re.findall("sends only whole files, so before the first tick 2 shards are downloaded", told)) == 1
        assert f"to {tmp_path} (data.shard_cache)" in told
        assert len(list(tmp_path.glob("*.tar"))) == 2
        asked.clear()
        collect(data_of(address, tmp_path), "train")
        assert not asked, "what they hold is remembered"
        assert not capsys.readouterr().err


def test_a_shard_of_unknown_size_is_bounded_and_seen_to_be_cut_short(root: Path, tmp_path: Path) -> None:
    (tmp_path / "cut").mkdir()
    for name in ("000.tar", "001.tar"):
        (tmp_path / "cut" / name).write_bytes((root / name).read_bytes()[:9000])
    with served(root, sized=False) as (address, _):
        assert len(collect(data_of(address, tmp_path / "copies"), "train").clips) == 4
        limit = r"000.tar has at least \d+ bytes, more than data.shard_cache_size = 5000: raise that"
        with pytest.raises(DataError, match=limit):
            collect(data_of(address, tmp_path / "few", shard_cache_size=5000), "train")
        assert sum(file.stat().st_size for file in (tmp_path / "few").iterdir()) <= 5000
    cut = "000.tar cannot be downloaded: it is cut short after 9000 bytes"
    with served(tmp_path / "cut", sized=False) as (address, _), pytest.raises(DataError, match=cut):
        collect(data_of(address, tmp_path / "other"), "train")


def test_a_server_that_falls_silent_is_given_up(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def copyfile(self: Any, source: Any, target: Any) -> None:
        target.write(source.read(5000))
        target.flush()
        time.sleep(1)

    monkeypatch.setattr(SimpleHTTPRequestHandler, "copyfile", copyfile)
    monkeypatch.setattr("coordinator.video.files.shard_source._SILENCE", 0.2)
    silent = r"000.tar cannot be downloaded: the server has sent nothing for 0.2 s"
    with served(root) as (address, _), pytest.raises(DataError, match=silent):
        collect(data_of(address, tmp_path), "train")
