"""Tells the user about shards that are downloaded before a run can begin: a sentence once, and a terminal sees bars."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Lock
from typing import Self
from urllib.parse import urlsplit

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from common.config.settings import Data
from coordinator.video.files.shard_cache import draft_of, folder_of
from coordinator.video.files.shard_source import Alive, Shard


class DownloadProgress:
    """What is shown while shards are listed, of which some are downloaded as a whole."""

    def __init__(self, addresses: list[str], data: Data) -> None:
        """`addresses`: of all shards."""
        self._count, self._data, self._lock = len(addresses), data, Lock()
        self._told = False
        self._console = Console(stderr=True)
        shown = self._console.is_terminal and any("://" in address for address in addresses)
        columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %")
        self._bars = Progress(*columns, console=self._console, transient=True, disable=not shown)
        self._shards = self._bars.add_task(f"{self._count} shards", total=self._count)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

    def listed(self) -> None:
        """The contents of one more shard are known."""
        self._bars.advance(self._shards)

    @contextmanager
    def download(self, shard: Shard) -> Iterator[Alive]:
        """Show the download of a shard. Yields what is to be called from time to time meanwhile."""
        self._tell(shard)
        bar = self._bars.add_task(shard.address.rpartition("/")[2], total=shard.size or None)
        draft = draft_of(shard, self._data)

        def update() -> None:
            with suppress(FileNotFoundError):  # it has not begun, or is whole
                self._bars.update(bar, completed=draft.stat().st_size)

        try:
            yield update
        finally:
            self._bars.remove_task(bar)

    def _tell(self, shard: Shard) -> None:
        with self._lock:
            told, self._told = self._told, True
        if not told:
            limit = self._data.shard_cache_size.human_readable(separator=" ")
            text = (
                f"sideways: {urlsplit(shard.address).netloc} sends only whole files, so before the first tick "
                f"{self._count} shards are downloaded to {folder_of(self._data)} (data.shard_cache), of which at most "
                f"{limit} are kept (data.shard_cache_size)"
            )
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)
