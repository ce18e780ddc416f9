"""Where a run's cache is: settled once by the coordinator, and passed on to its decoder processes."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from common.config.settings import MEMORY, Data
from common.errors import ConfigError
from common.shared_memory.memfd import memory_file
from coordinator.video.cache.entry import Store
from coordinator.video.cache.folder_store import FolderStore, prepare, remove_stale_drafts
from coordinator.video.cache.memory_store import MemoryStore
from coordinator.video.decoding.opening import reason


@dataclass(frozen=True)
class CachePlace:
    """A folder, or memory that the run's processes share.

    Attributes:
        folder: the folder; None for memory.
        file: descriptor of the memory, which decoder processes inherit under the same number; -1 for a folder.
        limit: bytes that it may take up.
        begun: when the run began, in seconds since the epoch.
    """

    folder: Path | None
    file: int
    limit: int
    begun: float

    def open(self) -> Store:
        """The store there."""
        if self.folder is None:
            return MemoryStore(self.file, self.limit)
        return FolderStore(self.folder, self.limit, self.begun)

    def tidy(self) -> None:
        """Remove what killed processes left unfinished. Raises OSError."""
        if self.folder is not None:
            remove_stale_drafts(self.folder)

    def close(self) -> None:
        """Close the memory; it is freed once no process uses it any more."""
        if self.file >= 0:
            os.close(self.file)

    @property
    def inherited(self) -> tuple[int, ...]:
        """File descriptors that decoder processes need."""
        return () if self.file < 0 else (self.file,)


def place_of(data: Data) -> CachePlace | None:
    """Create the memory or folder that the settings name; None if they name none.

    Raises:
        ConfigError: it cannot be created.
    """
    if data.cache is None:
        return None
    in_memory = data.cache == MEMORY
    folder = None if in_memory else Path(data.cache).absolute()
    try:
        file = memory_file("sideways-cache", 0) if in_memory else -1
        if folder is not None:
            prepare(folder)
    except OSError as error:
        raise ConfigError(
            f"data.cache: decoded frames cannot be kept in {data.cache}: {reason(error)}. Name a folder that you may "
            f'write to, or "{MEMORY}", or leave data.cache out'
        ) from error
    return CachePlace(folder, file, data.cache_size, time.time())
