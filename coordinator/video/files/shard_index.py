"""What a remote shard holds, read before it is downloaded: the tar headers, the labels, and each video's metadata.

Only these bytes are fetched, in pieces of 64 KiB. That needs a server which sends parts of a file, as S3 does, and most
HTTP servers.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

from common.config.settings import Data
from coordinator.video.decoding.media_info import MediaInfo, read_stream_info
from coordinator.video.files.shard_source import Shard, file_system

_PIECE = 1 << 16  # bytes fetched at a time
_PIECES = 256  # of a shard, kept in memory


@contextmanager
def opened_remotely(shard: Shard, data: Data) -> Iterator[BinaryIO]:
    """The shard as a file of which the bytes that are read are fetched. Raises errors of many libraries."""
    system, path = file_system(shard.address, data)
    kept = {"cache_type": "blockcache", "cache_options": {"maxblocks": _PIECES}}
    with system.open(path, "rb", block_size=_PIECE, **kept) as stream:
        if not shard.size or not stream.seekable():
            raise OSError(f"the server of {shard.address} does not send parts of files")
        yield cast(BinaryIO, stream)


def read_part_info(stream: BinaryIO, offset: int, size: int) -> MediaInfo | str:
    """Metadata of the video of `size` bytes at an offset, or the reason why it cannot be played.

    Raises the error of the stream if it cannot be read, which FFmpeg takes for damage.
    """
    if not size:
        return "the file is empty"
    part = _Part(stream, offset, size)
    found = read_stream_info(part)
    if part.error is not None:
        raise part.error
    return found


class _Part(io.RawIOBase):
    """A part of a file as a file.

    Attributes:
        error: of the last read; None if it went well.
    """

    def __init__(self, stream: BinaryIO, offset: int, size: int) -> None:
        self._stream, self._offset, self._size, self._place = stream, offset, size, 0
        self.error: Exception | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        begin = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = max(0, begin + place)
        return self._place

    def readinto(self, buffer: Any) -> int:
        try:
            self._stream.seek(self._offset + self._place)
            piece = self._stream.read(max(0, min(len(buffer), self._size - self._place)))
        except Exception as error:
            self.error = error
            raise
        buffer[: len(piece)] = piece
        self._place += len(piece)
        return len(piece)
