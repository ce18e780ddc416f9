"""Draws some ticks of a trace, as docs/trace.png was drawn:

sideways trace digits-… --ticks 50 --out trace.json
python docs/draw_trace.py trace.json docs/trace.png --skip 20 --ticks 10
"""

import argparse
import gzip
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Patch

Event = dict[str, Any]
COLOURS = {
    "forward": "#4477aa",
    "backward": "#ee8866",
    "update": "#228833",
    "send": "#aa3377",
    "wait": "#dddddd",
    "report": "#222222",
    "read": "#bbaa44",
    "feed": "#eedd88",
    "activation": "#66ccee",
    "gradient": "#ccbb00",
}
ARROWS = ("#cc0000", "#0000cc")
HEIGHT, THIN = 0.56, 0.07


def main() -> None:
    """Draw it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("trace", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--skip", type=int, default=0, help="ticks at the beginning")
    parser.add_argument("--ticks", type=int, default=8)
    arguments = parser.parse_args()
    with gzip.open(arguments.trace) if arguments.trace.suffix == ".gz" else open(arguments.trace, "rb") as file:
        trace = json.load(file)
    first = trace["otherData"]["first_tick"] + arguments.skip
    draw(trace["traceEvents"], first, arguments.ticks, arguments.picture)


def draw(events: list[Event], first: int, ticks: int, picture: Path) -> None:
    """From the first stage's tick `first` on, for as long as it needs for `ticks`."""
    names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    own = [e for e in events if e["name"] == "tick" and e["pid"] == 2 and first <= e["args"]["tick"] < first + ticks]
    start, end = own[0]["ts"], own[-1]["ts"] + own[-1]["dur"]
    shown = [e for e in events if "ts" in e and e["ts"] < end and e["ts"] + e.get("dur", 0) > start]
    figure, axes = plt.subplots(figsize=(13, 0.95 * len(names) + 1.2), dpi=95)
    for event in sorted((e for e in shown if e["ph"] == "X"), key=lambda e: e["name"].startswith("wait")):
        _slice(axes, event, start)
    _transfers(axes, events, start)
    frames = [e["id"] for e in shown if e["ph"] == "t" and e["pid"] == 2]  # that enter the first stage
    for number, frame in enumerate(frames[1:4:2]):
        way = [e for e in events if e["ph"] in "stf" and e["id"] == frame and names[e["pid"]].startswith("stage")]
        _arrow(axes, way, start, ARROWS[number], frame)
    axes.set_yticks([-pid for pid in names], names.values())
    axes.set_xlim(0, (end - start) / 1e3)
    axes.set_ylim(-len(names) - 0.55, -0.45)
    axes.set_xlabel("ms")
    axes.spines[["top", "right", "left"]].set_visible(False)
    handles = [Patch(color=colour, label=name) for name, colour in COLOURS.items()]
    figure.legend(handles=handles, ncols=len(handles), loc="upper center", frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 0.94))
    figure.savefig(picture)


def _slice(axes: Axes, event: Event, start: float) -> None:
    name, left, width = event["name"], (event["ts"] - start) / 1e3, event["dur"] / 1e3
    row = -event["pid"]
    if name == "tick":
        axes.plot([left, left], [row - 0.4, row + 0.46], color="#999999", linewidth=0.8)
        axes.text(left, row + 0.39, f" {event['args']['tick']}", fontsize=7, color="#666666", clip_on=True)
        return
    colour = COLOURS.get(name.partition(":")[0].split()[0])
    if colour is not None:
        axes.barh(row, width, HEIGHT, left, color=colour)


def _transfers(axes: Axes, events: list[Event], start: float) -> None:
    """Thin lines beside the sending stage's row: activations below it, gradients above."""
    ends = {e["id"]: e["ts"] for e in events if e["ph"] == "e"}
    for event in (e for e in events if e["ph"] == "b"):
        what = event["name"].partition(" ")[0]
        row = -event["pid"] + (-0.33 if what == "activation" else 0.33)
        axes.barh(row, (ends[event["id"]] - event["ts"]) / 1e3, THIN, (event["ts"] - start) / 1e3, color=COLOURS[what])


def _arrow(axes: Axes, way: list[Event], start: float, colour: str, frame: str) -> None:
    """Through a frame's forward passes up, and its backward passes down."""
    stops = [((e["ts"] - start) / 1e3, -e["pid"]) for e in way]
    for tail, head in pairwise(stops):
        axes.annotate("", head, tail, arrowprops={"arrowstyle": "-|>", "color": colour, "shrinkA": 0, "shrinkB": 0})
    if stops:
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        left, row = stops[0]
        axes.text(left - 5, row, f"frame {frame}", color=colour, fontsize=8, ha="right", va="center", bbox=box)


if __name__ == "__main__":
    main()
