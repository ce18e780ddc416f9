"""What one decoder process finds in the cache and adds to it. Whatever fails, clips are decoded as without a cache."""

from collections import OrderedDict
from collections.abc import Callable

from common.config.settings import Data
from coordinator.video.cache import KEPT
from coordinator.video.cache.entry import Draft, NoRoom, Store, StoredFrames
from coordinator.video.cache.key import key_of
from coordinator.video.decoding.opening import reason
from coordinator.video.decoding.pictures import Pictures
from coordinator.video.files.clips import Clip


class FrameCache:
    """Finds entries, each verified the first time, and begins new ones. Raises nothing."""

    def __init__(
        self, store: Store, data: Data, notify: Callable[[str], None], alive: Callable[[], None] = lambda: None
    ) -> None:
        """Find and begin entries of a store.

        Args:
            notify: called with a message for the user when the cache is full or cannot be used.
            alive: called from time to time while an entry is verified.
        """
        self._store, self._data, self._notify, self._alive = store, data, notify, alive
        self._reads = self._writes = True
        self._mapped: OrderedDict[bytes, StoredFrames] = OrderedDict()
        self._verified: set[bytes] = set()
        self._refused: set[bytes] = set()  # clips that cannot be kept
        self._recorded: set[bytes] = set()  # clips that are being written

    def find(self, clip: Clip) -> StoredFrames | None:
        """The clip's frames, if they are there and intact."""
        key = key_of(clip, self._data) if self._reads else None
        if key is None:
            return None
        found = self._mapped.pop(key, None) or self._loaded(key)
        if found is not None:
            self._mapped[key] = found
            if len(self._mapped) > KEPT:
                self._mapped.popitem(last=False)
        return found

    def key_to_keep(self, clip: Clip) -> bytes | None:
        """The key to keep the clip's frames by; None if they cannot be kept, or are being written already."""
        key = key_of(clip, self._data) if self._writes else None
        return None if key in self._refused or key in self._recorded else key

    def begin(self, key: bytes, size: int) -> "Recording | None":
        """Begin to keep a clip's frames, about `size` bytes; None if they cannot be kept."""
        try:
            draft = self._store.begin(key, size)
        except (OSError, NoRoom) as error:
            self.stop_writing(error)
            return None
        if draft is None:
            self._refused.add(key)
            return None
        self._recorded.add(key)
        return Recording(self, key, draft)

    def end(self, key: bytes, kept: bool) -> None:
        """A recording has ended. If nothing was kept, the clip is not tried again."""
        self._recorded.discard(key)
        (self._verified if kept else self._refused).add(key)

    def stop_writing(self, error: Exception) -> None:
        """Begin no more clips, and tell the user why."""
        if not self._writes:
            return
        self._writes = False
        if isinstance(error, NoRoom):
            size = self._data.cache_size.human_readable(separator=" ")
            self._notify(
                f"the cache of decoded frames is full (data.cache_size is {size}): clips that are not in it are "
                f"decoded each time they are played; raise data.cache_size to keep more"
            )
        else:
            self._notify(f"no more decoded frames are kept in data.cache ({self._data.cache}): {reason(error)}")

    def _loaded(self, key: bytes) -> StoredFrames | None:
        """The entry, mapped anew. A broken one is removed."""
        try:
            found = self._store.load(key)
            if found is None or key in self._verified:
                return found
            if found.is_intact(self._alive):
                self._verified.add(key)
                return found
            self._store.reject(key)
        except OSError as error:
            self._reads = self._writes = False
            self._notify(f"decoded frames cannot be read from data.cache ({self._data.cache}): {reason(error)}")
        return None


class Recording:
    """A clip's frames on their way into the cache. Raises nothing."""

    def __init__(self, cache: FrameCache, key: bytes, draft: Draft) -> None:
        self._cache, self._key = cache, key
        self._draft: Draft | None = draft

    def write(self, pictures: Pictures) -> Pictures:
        """Append pictures. Returns them, equal channels as one."""
        if self._draft is None:
            return pictures
        try:
            return self._draft.write(pictures)
        except (OSError, NoRoom) as error:
            self._cache.stop_writing(error)
            self.end(whole=False)
        return pictures

    def end(self, whole: bool) -> None:
        """Keep what was written if it is the `whole` clip, undamaged; else discard it."""
        draft, self._draft = self._draft, None
        if draft is None:
            return
        kept = False
        try:
            if whole:
                draft.commit()
                kept = True
            else:
                draft.discard()
        except OSError as error:
            self._cache.stop_writing(error)
        self._cache.end(self._key, kept)
