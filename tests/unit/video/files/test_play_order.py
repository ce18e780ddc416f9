"""The play order of clips."""

from pathlib import Path

from coordinator.video.files.clips import find
from coordinator.video.files.play_order import ShuffledOrder


def test_every_epoch_plays_every_clip_once(videos: Path) -> None:
    clips = find(videos / "train", "*", 1).clips
    order = ShuffledOrder(clips, 5, endless=True)
    epochs = [[order.entry(9 * epoch + n) for n in range(9)] for epoch in range(3)]
    assert all({clip.path for clip in epoch if clip} == {clip.path for clip in clips} for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
