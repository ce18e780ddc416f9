"""What a stage says when a neighbour is no longer there. `place` says which stage, which tick, and doing what."""

from common.errors import PeerError


def stuck(place: str, neighbour: int, seconds: float) -> PeerError:
    """Nothing moved for so long."""
    fate = f"nothing moved for {seconds:g} s: it is stuck, stopped or slower than network.deadline allows"
    return _error(place, neighbour, fate)


def broken(place: str, neighbour: int, reason: object) -> PeerError:
    """The connection is gone."""
    told = str(reason).splitlines()[0][:120]
    return _error(place, neighbour, f"the connection broke, so it has probably died ({told})")


def _error(place: str, neighbour: int, fate: str) -> PeerError:
    return PeerError(
        f"{place} stage {neighbour}: {fate}. Look at stage {neighbour}'s own message, then start the run again"
    )
