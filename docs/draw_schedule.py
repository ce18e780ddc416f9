"""Draws the schedule of docs/rule.md from common/rule/schedule.py, as SVG:

python docs/draw_schedule.py > docs/schedule.svg

A column is a tick, a row a stage, the top one uppermost. A cell shows the frame that the stage holds and below it the
frame from whose loss its gradient comes. One frame is followed: up as activations, down as gradients.
"""

from collections.abc import Iterator

from common.rule.schedule import Schedule

STAGES, TICKS, FOLLOWED = 4, 10, 1  # the frame that is followed
WIDTH, HEIGHT, LEFT, TOP, GAP = 66, 56, 74, 26, 6
FRAME, GRADIENT, PALE_FRAME, PALE_GRADIENT = "#4477aa", "#ee8866", "#dce7f3", "#fbe3da"


def main() -> None:
    """Print the picture."""
    print(picture(Schedule(STAGES), TICKS, FOLLOWED), end="")


def picture(schedule: Schedule, ticks: int, followed: int) -> str:
    """The SVG of the first `ticks` ticks."""
    right, bottom = LEFT + ticks * WIDTH + 100, TOP + schedule.stages * HEIGHT + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {right} {bottom}"'
        ' font-family="sans-serif" font-size="13">',
        f'<rect width="{right}" height="{bottom}" fill="white"/>',
        *(text(LEFT + tick * WIDTH + 30, 18, f"{tick}", "#666") for tick in range(ticks)),
        text(30, 18, "tick", "#666"),
        *(part for stage in range(schedule.stages) for part in row(schedule, stage, ticks, followed)),
        *path(schedule, followed),
        text(LEFT + 150, bottom - 10, "frame that the stage holds", FRAME),
        text(LEFT + 400, bottom - 10, "frame whose loss its gradient comes from", GRADIENT),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def row(schedule: Schedule, stage: int, ticks: int, followed: int) -> Iterator[str]:
    """A stage's name, its cells and its mismatch."""
    top = y(schedule, stage)
    yield text(34, top + 28, f"stage {stage}", "#222")
    for tick in range(ticks):
        frame, gradient = schedule.frame(stage, tick), schedule.gradient(stage, tick)
        yield from cell(tick, top, "frame", frame, frame == followed, FRAME, PALE_FRAME)
        yield from cell(tick, top + 25, "grad", gradient, gradient == followed, GRADIENT, PALE_GRADIENT)
    yield text(LEFT + ticks * WIDTH + 46, top + 28, f"mismatch {schedule.mismatch(stage)}", "#222")


def cell(tick: int, top: int, what: str, number: int | None, strong: bool, colour: str, pale: str) -> Iterator[str]:
    """Nothing where the stage has not got any yet."""
    if number is not None:
        left = LEFT + tick * WIDTH
        fill, ink = (colour, "white") if strong else (pale, "#222")
        yield f'<rect x="{left}" y="{top}" width="{WIDTH - GAP}" height="23" rx="3" fill="{fill}"/>'
        yield text(left + 30, top + 16, f"{what} {number}", ink)


def path(schedule: Schedule, frame: int) -> Iterator[str]:
    """The followed frame's way: a line through the stages up, and one down."""
    stages = range(schedule.stages)
    up = [(frame + schedule.first_input(stage), y(schedule, stage) + 11) for stage in stages]
    down = [(frame + schedule.first_gradient(stage), y(schedule, stage) + 36) for stage in reversed(stages)]
    for points, colour in ((up, FRAME), (down, GRADIENT)):
        line = " ".join(f"{LEFT + tick * WIDTH + 30},{height}" for tick, height in points)
        yield f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2" stroke-opacity="0.45"/>'


def y(schedule: Schedule, stage: int) -> int:
    """Upper edge of a stage's row."""
    return TOP + (schedule.stages - 1 - stage) * HEIGHT


def text(x: int, height: int, words: str, colour: str) -> str:
    """Centred text."""
    return f'<text x="{x}" y="{height}" text-anchor="middle" fill="{colour}">{words}</text>'


if __name__ == "__main__":
    main()
