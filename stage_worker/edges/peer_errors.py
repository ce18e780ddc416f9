"""What a stage says when a neighbour is no longer there, or does not move."""

import re

from common.errors import PeerError

# what gloo and NCCL say; torch raises a plain RuntimeError for all of it
_STUCK = re.compile(r"timed out|timing out|timeout", re.IGNORECASE)
_BROKEN = re.compile(r"connection|closed by peer|network error|aborted|unhandled system error", re.IGNORECASE)


def stuck(place: str, neighbour: int, seconds: float) -> PeerError:
    """Nothing moved for so long. `place`: which stage, which tick, and doing what."""
    fate = f"nothing moved for {seconds:g} s: it is stuck, stopped or slower than network.deadline allows"
    return _error(place, neighbour, fate)


def broken(place: str, neighbour: int, reason: object) -> PeerError:
    """The connection is gone."""
    cause = str(reason).splitlines()[0][:120]
    return _error(place, neighbour, f"the connection broke, so it has probably died ({cause})")


def transfer_failed(place: str, neighbour: int, seconds: float, error: RuntimeError) -> PeerError:
    """A transfer of torch's failed, after `seconds` at most."""
    if _STUCK.search(str(error)):
        return stuck(place, neighbour, seconds)
    return broken(place, neighbour, error)


def is_lost_peer(error: RuntimeError) -> bool:
    """Whether torch says by this error that a peer is gone, or does not move."""
    return bool(_STUCK.search(str(error)) or _BROKEN.search(str(error)))


def _error(place: str, neighbour: int, fate: str) -> PeerError:
    return PeerError(
        f"{place} stage {neighbour}: {fate}. Look at stage {neighbour}'s own message, then start the run again"
    )
