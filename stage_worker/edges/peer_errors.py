"""Errors for a neighbouring stage that is gone or makes no progress."""

import re

from torch.distributed import DistError

from common.errors import PeerError, first_line

# messages of gloo and NCCL, for which torch raises a plain RuntimeError
_STUCK = re.compile(r"timed out|timing out|timeout", re.IGNORECASE)
_BROKEN = re.compile(r"connection|closed by peer|network error|aborted|unhandled system error", re.IGNORECASE)


def stuck(place: str, neighbour: int, seconds: float) -> PeerError:
    """There was no progress for `seconds`. `place`: stage, tick and action, as "stage 1, tick 7, sending to"."""
    problem = f"no progress for {seconds:g} s: it is stuck, stopped or slower than network.deadline allows"
    return _error(place, neighbour, problem)


def broken(place: str, neighbour: int, reason: Exception) -> PeerError:
    """The connection was lost. `place` as for `stuck`; the first line of `reason` is quoted."""
    return _error(place, neighbour, f"the connection broke, so it has probably died ({first_line(reason)})")


def transfer_failed(place: str, neighbour: int, seconds: float, error: RuntimeError) -> PeerError:
    """A transfer by torch failed with `error`, after `seconds` at most."""
    if _STUCK.search(str(error)):
        return stuck(place, neighbour, seconds)
    return broken(place, neighbour, error)


def replicas_failed(stage: int, tick: int, seconds: float, error: RuntimeError) -> PeerError:
    """Taking the mean of the gradients over a stage's replicas failed with `error`, after `seconds` at most."""
    problem = f"no progress for {seconds:g} s" if _STUCK.search(str(error)) else "a connection broke"
    return PeerError(
        f"stage {stage}, tick {tick}, taking the mean of the gradients with its replicas: {problem}, so one has "
        f"probably died or is stuck ({first_line(error)}). See the errors of the others, then restart "
        f"the run"
    )


def is_lost_peer(error: RuntimeError) -> bool:
    """Whether an error of torch means that a peer is gone or makes no progress."""
    return bool(_STUCK.search(str(error)) or _BROKEN.search(str(error)))


def lost_connection(error: BaseException, place: str) -> PeerError | None:
    """The error for a connection of torch that was lost as the processes met; None for any other error."""
    if not isinstance(error, DistError):
        return None
    return PeerError(
        f"{place}: a connection to another process of the run was lost ({first_line(error)}). "
        "See the errors of the others"
    )


def _error(place: str, neighbour: int, problem: str) -> PeerError:
    return PeerError(f"{place} stage {neighbour}: {problem}. See the error of stage {neighbour}, then restart the run")
