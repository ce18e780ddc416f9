"""Make h264 videos of scikit-learn's handwritten digits, moving and bouncing: OUT/train/<digit>/…, OUT/val/<digit>/…

    python examples/make_digits.py data/digits

The 1,797 real digits of 8 × 8 pixels are split by image first: no image is in both a training and a validation clip.
Each becomes one clip of 32 to 64 frames of 32 × 32 pixels, in which it moves in a straight line, bounces off the edges,
and slowly rotates. The folder appears only when it is complete.
"""

import argparse
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

CANVAS, DIGIT = 32, 18  # pixels


def main() -> int:
    """Make the folder unless it exists."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder to create; nothing is done if it exists")
    parser.add_argument("--images", type=int, help="use only the first IMAGES digits; default: all")
    arguments = parser.parse_args()
    out: Path = arguments.out
    if out.exists():
        return 0
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    print(f"writing videos of moving digits to {out} …", file=sys.stderr)
    digits = load_digits()
    numbers = np.arange(len(digits.target))[: arguments.images]
    train, val = train_test_split(numbers, test_size=0.2, random_state=0, stratify=digits.target[numbers])
    jobs = [
        (digits.images[n], part / kind / str(digits.target[n]) / f"{n:04}.mp4", int(n))
        for kind, selected in (("train", train), ("val", val))
        for n in selected
    ]
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda job: draw(*job), jobs))
    part.rename(out)
    return 0


def draw(image: NDArray[np.float64], path: Path, seed: int) -> None:
    """Write the clip of a digit, given as floats of 0 to 16 [8, 8]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    digit = Image.fromarray((image / 16 * 255).astype(np.uint8)).resize((DIGIT, DIGIT), Image.Resampling.BICUBIC)
    position = random.uniform(0, CANVAS - DIGIT, 2)
    direction = random.uniform(0, 2 * np.pi)
    velocity = random.uniform(0.5, 1.5) * np.array([np.cos(direction), np.sin(direction)])
    angle, turning = random.uniform(-10, 10), random.uniform(-0.5, 0.5)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "18", "preset": "veryfast", "threads": "1"})
        stream.width = stream.height = CANVAS
        stream.pix_fmt = "yuv420p"
        for _ in range(int(random.integers(32, 65))):
            canvas = Image.new("L", (CANVAS, CANVAS))
            rotated = digit.rotate(angle, Image.Resampling.BICUBIC)
            canvas.paste(rotated, tuple(round(x) for x in position))
            container.mux(stream.encode(av.VideoFrame.from_image(canvas.convert("RGB"))))
            angle = float(np.clip(angle + turning, -20, 20))
            position += velocity
            outside = (position < 0) | (position > CANVAS - DIGIT)
            velocity[outside] *= -1
            position = np.clip(position, 0, CANVAS - DIGIT)
        container.mux(stream.encode())


if __name__ == "__main__":
    sys.exit(main())
