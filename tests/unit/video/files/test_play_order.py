"""The play order of clips."""

from collections import Counter
from pathlib import Path

from coordinator.video.files.clips import Clip, find
from coordinator.video.files.play_order import BalancedOrder, ShuffledOrder


def test_every_epoch_plays_every_clip_once(videos: Path) -> None:
    clips = find(videos / "train", "*", 1).clips
    order = ShuffledOrder(clips, 5, endless=True)
    epochs = [[order.entry(9 * epoch + n) for n in range(9)] for epoch in range(3)]
    assert all({clip.path for clip in epoch if clip} == {clip.path for clip in clips} for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_balanced_classes_are_played_equally_often_and_their_clips_in_turn() -> None:
    """Of 7 clips, one of class 0 and six of class 1, in 12 epochs."""
    clips = [Clip(Path(str(number)), int(number > 0), 10) for number in range(7)]
    order = BalancedOrder(clips, 5)
    played = [order.entry(number) for number in range(12 * 7)]
    assert Counter(clip.label for clip in played) == {0: 42, 1: 42}
    assert Counter(clip.path.name for clip in played if clip.label) == {str(number): 7 for number in range(1, 7)}
    assert all(Counter(clip.label for clip in played[7 * n : 7 * n + 7])[0] in (3, 4) for n in range(12))
    assert [order.entry(number) for number in range(50, 60)] == played[50:60]
    assert [BalancedOrder(clips, 6).entry(number) for number in range(7)] != played[:7]


def test_clips_without_a_label_are_no_class_to_balance() -> None:
    clips = [Clip(Path(str(number)), number - 1, 10) for number in range(3)]
    order = BalancedOrder(clips, 5)
    assert Counter(clip.label for clip in (order.entry(number) for number in range(30))) == {0: 15, 1: 15}
