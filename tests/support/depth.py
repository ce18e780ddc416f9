"""Grey videos of 16 bits a pixel."""

from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from tests.support.videos import video_stream


def write_depth(path: Path, frames: int, size: tuple[int, int] = (48, 32), seed: int = 0) -> NDArray[np.uint16]:
    """Write a lossless video of random values that use all 16 bits. `size`: (width, height). Returns the frames."""
    width, height = size
    values = np.random.default_rng(seed).integers(0, 1 << 16, (frames, height, width), np.uint16)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = video_stream(container, "ffv1", 25)
        stream.width, stream.height, stream.pix_fmt = width, height, "gray16le"
        for picture in values:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="gray16le")))
        container.mux(stream.encode())
    return values
