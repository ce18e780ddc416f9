"""Membership: roles and hosts, from what the processes of a run publish about themselves."""

import pytest
import zmq
from torch._C._distributed_c10d import HashStore

from common.processes.membership import Member, Membership

# by rank: two hosts, a coordinator that is not the first process, a stage that sees other devices
MEMBERS = (
    Member("stage", "10.0.0.1", "a", devices=2, started=5),
    Member("coordinator", "10.0.0.1", "a", devices=2, started=9),
    Member("stage", "10.0.0.2", "b", devices=1),
    Member("stage", "10.0.0.1", "a", devices=2),
    Member("stage", "10.0.0.1", "a", devices=0),
)


def at(rank: int, members: tuple[Member, ...] = MEMBERS) -> Membership:
    return Membership(rank, members, HashStore())


def test_stages_are_numbered_in_the_order_of_their_ranks() -> None:
    assert [at(rank).stage for rank in range(5)] == [0, -1, 1, 2, 3]
    assert {at(rank).stages for rank in range(5)} == {4}
    assert at(0).stage_member(1) is MEMBERS[2]
    assert at(0).stage_member(-1) is MEMBERS[4]


def test_stages_are_grouped_by_host() -> None:
    assert [at(rank).local_stage for rank in range(5)] == [0, -1, 0, 1, 2]
    assert [at(rank).local_processes for rank in range(5)] == [3, 3, 1, 3, 3]
    assert [at(rank).on_feeder_host for rank in range(5)] == [True, True, False, True, True]
    assert at(0).stages_on_host == {0, 2}, "stage 3 sees other devices"
    assert at(2).stages_on_host == {1}


def test_replicas_are_consecutive_workers() -> None:
    found = [at(rank).arranged(2) for rank in range(5)]
    assert [me.worker for me in found] == [0, -1, 1, 2, 3]
    assert [me.of_replica for me in found] == [0, 0, 0, 1, 1]
    assert [me.stage for me in found] == [0, -1, 1, 0, 1]
    assert {me.stages for me in found} == {2}
    assert found[3].stage_ranks == [3, 4]
    assert found[3].stages_on_host == {0}, "its neighbour sees other devices"
    assert found[1].stage_member(-1) is MEMBERS[2]
    assert found[1].replica(1).stage_member(-1) is MEMBERS[4]
    assert [me.local_processes for me in found] == [3, 3, 1, 3, 3], "of all replicas: they share the cores"


def test_fewer_workers_than_stages_hold_several_each() -> None:
    found = [at(rank).arranged(2, depth=3) for rank in range(5)]
    assert [list(me.held) for me in found] == [[0, 1], [], [2], [0, 1], [2]]
    assert [me.stage for me in found] == [0, -1, 2, 0, 2]
    assert [me.number for me in found] == [0, -1, 2, 3, 5]
    assert found[0].stage_ranks == [0, 0, 2]
    assert found[3].stage_ranks == [3, 3, 4]
    assert [found[0].process_of(stage) for stage in range(3)] == [0, 0, 1]
    assert [found[1].worker_of(number) for number in range(6)] == [0, 0, 1, 2, 2, 3]
    first, second = found[0].at(0), found[0].at(1)
    assert (first.leads, second.leads) == (True, False)
    assert [me.local_stage for me in (first, second, found[2], found[3].at(1), found[4])] == [0, 1, 0, 3, 4]
    assert found[0].local_processes == 3
    assert found[0].stages_on_host == {0, 1}


def test_each_reader_feeds_as_many_neighbouring_replicas() -> None:
    readers = (Member("reader", "10.0.0.2", "b"), Member("reader", "10.0.0.1", "a"))
    members = (readers[0], *MEMBERS, readers[1])
    found = [at(rank, members).arranged(4) for rank in range(7)]
    assert [me.reader for me in found] == [0, -1, -1, -1, -1, -1, 1]
    assert [me.worker for me in found] == [-1, 0, -1, 1, 2, 3, -1]
    assert [found[0].replicas_of(reader) for reader in range(2)] == [range(2), range(2, 4)]
    workers = [found[rank] for rank in (1, 3, 4, 5)]
    assert [me.feeder_text for me in workers] == ["reader 0", "reader 0", "reader 1", "reader 1"]
    assert [me.on_feeder_host for me in workers] == [False, True, True, True]


@pytest.mark.parametrize(("devices", "own"), [((2, 1), True), ((1, 1), False), ((2, 0), False)])
def test_own_devices_needs_a_device_per_stage_on_every_host(devices: tuple[int, int], own: bool) -> None:
    first, second = devices
    members = (
        Member("coordinator"),
        Member("stage", "10.0.0.1", devices=first),
        Member("stage", "10.0.0.1", devices=first),
        Member("stage", "10.0.0.2", devices=second),
    )
    assert at(1, members).own_devices is own


def test_all_members_use_the_coordinators_attempt_number() -> None:
    assert {at(rank).attempt for rank in range(5)} == {9}


def test_a_member_can_connect_to_another_members_socket() -> None:
    members = (Member("coordinator"), Member("stage"))
    coordinator, stage = at(0, members), at(1, members)
    with zmq.Context() as context, context.socket(zmq.PULL) as pull, context.socket(zmq.PUSH) as push:
        address = coordinator.listen(pull)
        assert address.startswith("tcp://127.0.0.1:")
        stage.connect(push, address, to=stage.coordinator)
        push.send(b"here")
        assert pull.poll(5000)
        assert pull.recv() == b"here"
