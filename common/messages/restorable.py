"""What of a checkpoint a run can restore, given how it differs from the run that wrote it."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Restorable:
    """Parameters, buffers and counters can always be restored, and besides:

    Attributes:
        same_split: every stage has the same blocks as in the checkpoint; otherwise what belongs to a stage and not to
            its blocks (skips, auxiliary classifiers) starts anew.
        in_flight: the packets in flight on the edges; otherwise the pipeline starts empty.
        optimiser: the optimiser's state; otherwise it is reset.
        scored: the run that wrote it was evaluated there before it went on, and the checkpoint has the score.
    """

    same_split: bool = False
    in_flight: bool = False
    optimiser: bool = False
    scored: bool = False
