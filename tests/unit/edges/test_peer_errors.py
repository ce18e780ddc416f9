"""Errors of torch that mean that another process is gone."""

import torch.distributed as dist

from common.errors import PeerError
from stage_worker.edges.peer_errors import lost_connection


def test_a_connection_that_is_lost_as_the_processes_meet_is_a_lost_peer() -> None:
    """The launcher restarts the run after a PeerError only."""
    error = lost_connection(dist.DistNetworkError("Connection reset by peer\nmore"), "stage 2")
    assert isinstance(error, PeerError)
    assert str(error).startswith("stage 2: a connection to another process of the run was lost (Connection reset by ")
    assert "more" not in str(error)
    assert lost_connection(dist.DistStoreError("timed out"), "stage 2") is not None
    assert lost_connection(RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "stage 2") is None
