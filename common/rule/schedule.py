"""Which frame and which gradient a stage uses at a tick: pure arithmetic, no state.

    D = 3:  fK = stage holds frame K, gK = it uses the gradient of frame K's loss

    tick      0       1       2       3       4       5       6
    stage 0   f0      f1      f2      f3      f4 g0   f5 g1   f6 g2     mismatch 4 frames
    stage 1           f0      f1      f2 g0   f3 g1   f4 g2   f5 g3     mismatch 2
    stage 2                   f0 g0   f1 g1   f2 g2   f3 g3   f4 g4     mismatch 0

A frame moves up one stage per tick, so at tick k stage i holds frame k - i. Its gradient is computed in the top stage,
D - 1 ticks after the frame entered, and moves down one stage per tick (paper, section 3.2).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """The schedule of a pipeline of `stages` stages. Ticks and frames count from 0."""

    stages: int

    def __post_init__(self) -> None:
        assert self.stages >= 1

    def first_input(self, stage: int) -> int:
        """Tick at which `stage` receives its first input."""
        return stage

    def first_gradient(self, stage: int) -> int:
        """Tick at which `stage` uses its first gradient."""
        return 2 * (self.stages - 1) - stage

    def mismatch(self, stage: int) -> int:
        """Number of frames between the input of `stage` and the frame its gradient belongs to (staleness)."""
        return self.first_gradient(stage) - self.first_input(stage)

    def skip_mismatch(self, source: int, target: int) -> int:
        """The same for the gradient that comes back to `source` along a skip (skips.py) to `target`.

        It is taken at what `source` sent 2 ticks before, however many stages lie between.
        """
        return self.mismatch(source) - (target - source - 1)

    def frame(self, stage: int, tick: int) -> int | None:
        """Frame that `stage` holds at `tick`; None before its first input."""
        return tick - self.first_input(stage) if tick >= self.first_input(stage) else None

    def gradient(self, stage: int, tick: int) -> int | None:
        """Frame from whose loss the gradient that `stage` uses at `tick` was computed; None before the first."""
        return tick - self.first_gradient(stage) if tick >= self.first_gradient(stage) else None

    def table(self, ticks: int) -> str:
        """The staircase of this module's docstring for any D, as text."""

        def cell(stage: int, tick: int) -> str:
            frame, gradient = self.frame(stage, tick), self.gradient(stage, tick)
            held = "" if frame is None else f"f{frame}"
            return held if gradient is None else f"{held} g{gradient}"

        width = max(8, len(cell(self.stages - 1, ticks - 1)) + 1, len(cell(0, ticks - 1)) + 1)
        rows = ["tick      " + "".join(f"{tick:<{width}}" for tick in range(ticks)).rstrip()]
        for stage in range(self.stages):
            cells = "".join(f"{cell(stage, tick):<{width}}" for tick in range(ticks))
            rows.append(f"stage {stage:<4}{cells}  mismatch {self.mismatch(stage)}")
        return "\n".join(rows)
