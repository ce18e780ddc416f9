"""The order in which clips are played. Entry n is played by slot n mod B, and n is its clip id."""

from collections.abc import Iterable
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from common.config.settings import Data
from coordinator.video.files.clips import Clip
from coordinator.video.files.shard_source import Shard

_EPOCHS_KEPT = 64  # permutations cached: slots may be several epochs ahead of each other if there are few clips


class PlayOrder(Protocol):
    """A random-access order of clips: an entry is found without computing those before it."""

    endless: bool

    def entry(self, number: int) -> Clip | None:
        """The clip that entry `number` plays; None beyond the end."""

    def first(self, number: int) -> int:
        """The number of the clip's frame, after sampling, with which entry `number` begins."""


class ShuffledOrder:
    """If `endless`, the clips reshuffled in each epoch; else each once, in their given order."""

    def __init__(self, clips: list[Clip], seed: int, endless: bool) -> None:
        self.clips, self.seed, self.endless = clips, seed, endless
        self._permutation = lru_cache(maxsize=_EPOCHS_KEPT)(self._shuffle)

    def entry(self, number: int) -> Clip | None:
        """The clip that entry `number` plays; None beyond the end."""
        epoch, position = divmod(number, len(self.clips))
        if not self.endless:
            return self.clips[position] if epoch == 0 else None
        return self.clips[self._permutation(epoch)[position]]

    def first(self, number: int) -> int:
        """0: clips are played from their beginning."""
        return 0

    def _shuffle(self, epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.clips))


class ShardOrder(ShuffledOrder):
    """Endless, for remote shards that do not all fit into the cache: shuffled within groups of shards.

    In each epoch the shards are shuffled, then the clips of as many as fit into half the cache, and so on. So a shard
    is downloaded once in an epoch, also while some slots still play the group before.
    """

    def __init__(self, clips: list[Clip], seed: int, cache: int) -> None:
        """`cache`: its size in bytes."""
        super().__init__(clips, seed, endless=True)
        self._room = cache // 2
        self._of_shard: dict[Shard | None, list[int]] = {}
        for number, clip in enumerate(clips):
            self._of_shard.setdefault(clip.member.shard if clip.member else None, []).append(number)

    def _shuffle(self, epoch: int) -> NDArray[np.int64]:
        random = np.random.default_rng([self.seed, epoch])
        shards, left = list(self._of_shard), self._room
        groups: list[list[int]] = [[]]
        for number in random.permutation(len(shards)):
            shard = shards[number]
            size = shard.size if shard else 0
            if size > left and groups[-1]:
                groups.append([])
                left = self._room
            groups[-1] += self._of_shard[shard]
            left -= size
        return np.concatenate([random.permutation(np.array(group, np.int64)) for group in groups])


def exceed_cache(clips: Iterable[Clip], data: Data) -> bool:
    """Whether remote shards do not all fit into the cache at once."""
    shards = {clip.member.shard for clip in clips if clip.member is not None and clip.member.shard.remote}
    return sum(shard.size for shard in shards) > data.shard_cache_size


class ListedOrder:
    """Endless: the clips in their given order, again and again."""

    endless = True

    def __init__(self, clips: list[Clip]) -> None:
        self.clips = clips

    def entry(self, number: int) -> Clip:
        """The clip that entry `number` plays."""
        return self.clips[number % len(self.clips)]

    def first(self, number: int) -> int:
        """0: clips are played from their beginning."""
        return 0


class BalancedOrder:
    """Endless, for clips of one class each: every class is played as often as any other.

    The clips of each are reshuffled when all were played.

    Entry g, counted before the shuffle of its epoch, is the g // C-th of class g mod C, where C is their number.
    """

    endless = True

    def __init__(self, clips: list[Clip], seed: int) -> None:
        labels = sorted({clip.label for clip in clips if isinstance(clip.label, int) and clip.label >= 0})
        self._classes = [[clip for clip in clips if clip.label == label] for label in labels]
        self._count, self._seed = len(clips), seed
        self._in_epoch = lru_cache(maxsize=_EPOCHS_KEPT)(self._shuffle_epoch)
        self._in_class = lru_cache(maxsize=_EPOCHS_KEPT * len(labels))(self._shuffle_class)

    def entry(self, number: int) -> Clip:
        """The clip that entry `number` plays."""
        epoch, position = divmod(number, self._count)
        turn, kind = divmod(epoch * self._count + int(self._in_epoch(epoch)[position]), len(self._classes))
        clips = self._classes[kind]
        times, place = divmod(turn, len(clips))
        return clips[self._in_class(kind, times)[place]]

    def first(self, number: int) -> int:
        """0: clips are played from their beginning."""
        return 0

    def _shuffle_epoch(self, epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng([self._seed, epoch]).permutation(self._count)

    def _shuffle_class(self, kind: int, times: int) -> NDArray[np.int64]:
        return np.random.default_rng([self._seed, times, kind]).permutation(len(self._classes[kind]))


class LoopOrder:
    """Long files in an endless loop: slot s plays file s mod n, starting at s/B of its length."""

    def __init__(self, clips: list[Clip], slots: int) -> None:
        self.clips, self.slots, self.endless = clips, slots, True

    def entry(self, number: int) -> Clip:
        """The file of the entry's slot."""
        return self.clips[number % self.slots % len(self.clips)]

    def first(self, number: int) -> int:
        """Slots start spread over the file; from their second entry on they play all of it."""
        return number * self.entry(number).frames // self.slots if number < self.slots else 0
