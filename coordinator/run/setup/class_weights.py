"""class_weights: those that are given, or those that the training clips call for."""

import numpy as np

from common.config.settings import Config
from common.errors import ConfigError
from coordinator.video.files.clips import Clips
from coordinator.video.files.labels import frames_by_class


def with_class_weights(config: Config, clips: Clips) -> Config:
    """The run's configuration with a weight for each class; unchanged without any, and for other tasks.

    With "balanced" every class counts as much as any other: its weight is inverse to the number of its frames that an
    epoch plays, and the mean over all frames is 1. A class without frames gets 0.

    Raises:
        ConfigError: there is not one weight for each class.
    """
    if config.task != "classify":
        return config.model_copy(update={"class_weights": None})
    weights, classes = config.class_weights, len(clips.classes)
    if weights == "balanced":
        window = config.data.window
        most = window * config.data.snippets if window else None
        frames = frames_by_class([(clip.label, clip.frames) for clip in clips.clips], classes, most)
        share = frames.sum() / np.count_nonzero(frames)
        weights = np.divide(share, frames, out=np.zeros(classes), where=frames > 0).tolist()
    elif weights is not None and len(weights) != classes:
        raise ConfigError(
            f"class_weights has {len(weights)} values, but there are {classes} classes: give one for each, in the "
            f'order of their names, or set it to "balanced"'
        )
    return config.model_copy(update={"class_weights": weights})
