"""Memberships without a launcher, for tests without other processes of the run."""

from torch._C._distributed_c10d import HashStore

from common.processes.membership import Member, Membership
from common.processes.zmq_curve import CurveKeys


def coordinator(stages: int = 1, attempt: int = 0, curve: CurveKeys | None = None, keys: str = "") -> Membership:
    """The coordinator of `stages` stages on loopback. `keys` is the stages' public key."""
    return _membership(0, stages, attempt, curve, (curve.public.decode() if curve else "", keys))


def stage(
    number: int = 0, stages: int = 1, attempt: int = 0, curve: CurveKeys | None = None, keys: str = ""
) -> Membership:
    """One of `stages` stages on loopback. `keys` is the coordinator's public key."""
    return _membership(1 + number, stages, attempt, curve, (keys, curve.public.decode() if curve else ""))


def _membership(rank: int, stages: int, attempt: int, curve: CurveKeys | None, keys: tuple[str, str]) -> Membership:
    members = [Member("coordinator", started=attempt, public_key=keys[0])]
    members += [Member("stage", public_key=keys[1])] * stages
    return Membership(rank, tuple(members), HashStore(), curve)
