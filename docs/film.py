"""Film the page of a training: docs/film.gif, and one of its pictures: docs/page.png.

    python docs/film.py [--seconds 1.5]

Trains on the digits of `make train` in a temporary folder, with the page in headless Chromium, and takes a picture
every few seconds until the training has ended. More seconds make a smaller file: it should stay below 2 MB.
"""

import argparse
import io
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

ROOT = Path(__file__).resolve().parent.parent
FILM, PAGE = ROOT / "docs/film.gif", ROOT / "docs/page.png"
WIDTH, HEIGHT, SHOWN = 1120, 1310, 840  # pixels of the window, and the film's width
FLAGS = (
    "headless",
    "hide-scrollbars",
    "no-sandbox",
    "disable-gpu",
    "disable-background-networking",
    "force-color-profile=srgb",
)
OPTIONS = "--set", "name=digits", "--set", "evaluate_every=860"
COLOURS, FRAME = 192, 350  # of the palette; ms that a picture is shown
OCTREE = Image.Quantize.FASTOCTREE


def main() -> None:
    """Train, take the pictures and write the film."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1.5, help="from one picture to the next")
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw = [sys.executable, str(ROOT / "examples/make_digits.py"), str(folder / "data/digits")]
        subprocess.run(draw, check=True, cwd=folder)
        shutil.copy(ROOT / "examples/digits.toml", folder)
        with open(folder / "log", "w+") as log:
            run = subprocess.Popen(
                [sys.executable, "-m", "sideways", "train", "digits.toml", *OPTIONS], cwd=folder, stderr=log
            )
            pictures = list(_pictures(run, folder / "log", folder / "profile", seconds))
    _write(pictures)
    pictures[len(pictures) * 3 // 4].quantize(256, OCTREE, dither=Image.Dither.NONE).save(PAGE, optimize=True)
    print(f"{FILM}: {len(pictures)} pictures, {FILM.stat().st_size / 1e6:.2f} MB")


def _pictures(run: "subprocess.Popen[bytes]", log: Path, profile: Path, seconds: float) -> "list[Image.Image]":
    while not (found := re.search(r"watch it at (http://\S+)", log.read_text())):
        assert run.poll() is None, log.read_text()
        time.sleep(0.1)
    browser = _browser(profile)
    try:
        browser.get(found[1])
        taken = []
        while run.poll() is None:
            taken.append(Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB"))
            time.sleep(seconds)
        assert run.returncode == 0, log.read_text()
        return taken
    finally:
        browser.quit()


def _browser(profile: Path) -> webdriver.Chrome:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in (*FLAGS, f"window-size={WIDTH},{HEIGHT}", f"user-data-dir={profile}"):
        options.add_argument(f"--{flag}")
    return webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))


def _write(pictures: "list[Image.Image]") -> None:
    size = SHOWN, round(SHOWN * pictures[0].height / pictures[0].width)
    small = [picture.resize(size, Image.Resampling.LANCZOS) for picture in pictures]
    # one palette for all, so that what does not change costs nothing; of few pixels' colours too, such as the red
    palette = small[len(small) // 2].quantize(COLOURS, OCTREE)
    drawn = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in small]
    times = [FRAME] * (len(drawn) - 1) + [3000]
    drawn[0].save(FILM, save_all=True, append_images=drawn[1:], duration=times, loop=0, optimize=True)


if __name__ == "__main__":
    main()
