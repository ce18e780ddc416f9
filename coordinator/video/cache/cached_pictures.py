"""Sources of pictures that read from the cache, or fill it on the way."""

from coordinator.video.cache.entry import StoredFrames
from coordinator.video.cache.frame_cache import FrameCache, Recording
from coordinator.video.decoding.packets import Damage
from coordinator.video.decoding.pictures import Pictures, PictureSource
from coordinator.video.files.clips import Clip


class CachedPictures:
    """Plays an entry. A `PictureSource`."""

    def __init__(self, stored: StoredFrames, skip: int, limit: int | None, pixel_type: str = "uint8") -> None:
        """Without the first `skip` frames, and at most `limit`."""
        self.failure = ""
        self._stored, self._next, self._type = stored, skip, pixel_type
        self._last = len(stored.frames) if limit is None else min(len(stored.frames), skip + limit)

    def take(self, most: int) -> Pictures:
        """The next frames, as a view of the entry's memory."""
        first, last = self._next, min(self._next + most, self._last)
        if first >= last:
            return []
        self._stored.load(first, last)
        self._next = last
        return self._stored.frames[first:last].view(self._type)


class RecordedPictures:
    """Passes on the pictures of a whole clip and keeps them once it has ended undamaged. A `PictureSource`."""

    def __init__(self, source: PictureSource, damage: Damage, clip: Clip, cache: FrameCache) -> None:
        """`damage`: that of `source`."""
        self._source, self._damage, self._cache, self._frames = source, damage, cache, clip.frames
        self._key = cache.key_to_keep(clip)  # before the file is opened, as it may be replaced at any time
        self._recording: Recording | None = None

    @property
    def failure(self) -> str:
        """That of the source."""
        return self._source.failure

    def take(self, most: int) -> Pictures:
        """The source's next pictures."""
        pictures = self._source.take(most)
        if not len(pictures):
            self.end(whole=not self.failure and not self._damage.count)
            return pictures
        if self._key is not None:
            key, self._key = self._key, None
            self._recording = self._cache.begin(key, self._frames * sum(channel.nbytes for channel in pictures[0]))
        return pictures if self._recording is None else self._recording.write(pictures)

    def end(self, whole: bool) -> None:
        """Keep the pictures if they are the `whole` clip, undamaged; else discard them."""
        recording, self._recording = self._recording, None
        if recording is not None:
            recording.end(whole)
