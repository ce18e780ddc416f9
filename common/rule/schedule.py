"""Which frame and which gradient a stage uses at a tick: pure arithmetic, no state.

    D = 3:  fK = stage holds frame K, gK = it uses the gradient of frame K's loss

    tick      0       1       2       3       4       5       6
    stage 0   f0      f1      f2      f3      f4 g0   f5 g1   f6 g2     mismatch 4 frames
    stage 1           f0      f1      f2 g0   f3 g1   f4 g2   f5 g3     mismatch 2
    stage 2                   f0 g0   f1 g1   f2 g2   f3 g3   f4 g4     mismatch 0

A frame moves up one stage per tick, so at tick k stage i holds frame k - i. Its gradient is computed in the top stage,
D - 1 ticks after the frame entered, and moves down one stage per tick (paper, section 3.2).

Edges may take longer, so that a link's delay does not slow the ticks (ours): over an edge of d ticks a stage uses at
tick k what its neighbour sent at tick k - d. With edges of 1 and 2 ticks:

    tick      0       1       2       3       4       5       6       7       8
    stage 0   f0      f1      f2      f3      f4      f5      f6 g0   f7 g1   f8 g2     mismatch 6
    stage 1           f0      f1      f2      f3      f4 g0   f5 g1   f6 g2   f7 g3     mismatch 4
    stage 2                           f0 g0   f1 g1   f2 g2   f3 g3   f4 g4   f5 g5     mismatch 0
"""

from dataclasses import dataclass

from common.config.settings import Config


@dataclass(frozen=True)
class Schedule:
    """The schedule of a pipeline of `stages` stages. Ticks and frames count from 0.

    Attributes:
        edge_ticks: for each edge between neighbours, from the bottom, the ticks from sending to using, in either
            direction; empty: one tick each.
        exact: gradients are exact: a frame and its gradient pass all stages within a tick.
    """

    stages: int
    edge_ticks: tuple[int, ...] = ()
    exact: bool = False

    def __post_init__(self) -> None:
        assert self.stages >= 1
        assert not self.edge_ticks or (len(self.edge_ticks) == self.stages - 1 and min(self.edge_ticks) >= 1)

    def ticks_between(self, source: int, target: int) -> int:
        """Ticks of the edge between two stages. That of a skip takes as long as the longest edge that it passes by."""
        low, high = sorted((source, target))
        return max(self.edge_ticks[low:high], default=1)

    def first_input(self, stage: int) -> int:
        """Tick at which `stage` receives its first input."""
        if self.exact:
            return 0
        return sum(self.edge_ticks[:stage]) if self.edge_ticks else stage

    def first_gradient(self, stage: int) -> int:
        """Tick at which `stage` uses its first gradient."""
        top = self.first_input(self.stages - 1)
        return 2 * top - self.first_input(stage)

    def mismatch(self, stage: int) -> int:
        """Number of frames between the input of `stage` and the frame its gradient belongs to (staleness)."""
        return self.first_gradient(stage) - self.first_input(stage)

    def skip_mismatch(self, source: int, target: int) -> int:
        """The same for the gradient that comes back to `source` along a skip (skips.py) to `target`.

        It is taken at what `source` sent as long before as the skip takes there and back, however many stages lie
        between.
        """
        return self.mismatch(source) - self.frames_newer(source, target)

    def frames_newer(self, source: int, target: int) -> int:
        """How many frames newer than the one that `target` holds is the one that a skip from `source` brings."""
        return self.first_input(target) - self.first_input(source) - self.ticks_between(source, target)

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


def schedule_of(config: Config) -> Schedule:
    """The schedule of a run's training."""
    return Schedule(config.stages, config.edge_ticks, config.exact_gradients)
