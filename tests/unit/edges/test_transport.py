"""Which transport an edge gets, by where its two stages compute."""

from pathlib import Path

import pytest

from common.errors import ConfigError
from common.processes.membership import Member, Membership
from stage_worker.edges.transport import Placement, choose, on_cpu, on_gpus, uses_nccl
from tests.support import members
from tests.support.settings import config_of

CPU, FIRST, SECOND = None, 11, 22  # GPUs, by UUID


@pytest.mark.parametrize(
    ("transport", "same_host", "own", "other", "expected"),
    [
        ("auto", True, CPU, CPU, "shared"),
        ("auto", True, FIRST, FIRST, "device"),
        ("auto", True, FIRST, SECOND, "device"),
        ("auto", True, FIRST, CPU, "gloo"),
        ("auto", False, CPU, CPU, "gloo"),
        ("auto", False, FIRST, SECOND, "nccl"),
        ("auto", False, FIRST, CPU, "gloo"),
        ("shared", True, CPU, CPU, "shared"),
        ("shared", True, FIRST, SECOND, "device"),
        ("shared", True, FIRST, CPU, "refused"),
        ("shared", False, FIRST, SECOND, "refused"),
        ("shared", False, CPU, CPU, "refused"),
        ("nccl", True, FIRST, SECOND, "nccl"),
        ("nccl", True, FIRST, FIRST, "refused"),
        ("nccl", False, FIRST, SECOND, "nccl"),
        ("nccl", True, CPU, CPU, "refused"),
        ("gloo", True, CPU, CPU, "gloo"),
        ("gloo", True, FIRST, SECOND, "gloo"),
        ("gloo", False, FIRST, SECOND, "gloo"),
    ],
)
def test_both_ends_choose_the_same(
    tmp_path: Path, transport: str, same_host: bool, own: int | None, other: int | None, expected: str
) -> None:
    config = config_of(tmp_path, network__transport=transport)
    for here, there in ((own, other), (other, own)):
        ends = Placement(True, here), Placement(same_host, there)
        if expected == "refused":
            with pytest.raises(
                ConfigError, match=rf'network.transport = "{transport}" needs .* stages 3 and 4 .*: use'
            ):
                choose(config, (3, 4), *ends, nccl=True)
        else:
            assert choose(config, (3, 4), *ends, nccl=True) == expected


def test_edges_of_several_ticks_never_take_nccl(tmp_path: Path) -> None:
    ends = Placement(True, FIRST), Placement(False, SECOND)
    assert choose(config_of(tmp_path), (3, 4), *ends, nccl=True, ticks=2) == "gloo"
    with pytest.raises(ConfigError, match=r'"nccl" takes one tick, .* stages 3 and 4 takes 2 .*: use "auto" or "gloo"'):
        choose(config_of(tmp_path, network__transport="nccl"), (3, 4), *ends, nccl=True, ticks=2)


def test_without_groups_for_nccl_gloo_connects_gpus_of_two_hosts(tmp_path: Path) -> None:
    """Where some stage of the run computes on a CPU."""
    assert choose(config_of(tmp_path), (0, 1), Placement(True, FIRST), Placement(False, SECOND), nccl=False) == "gloo"


def run_on(*hosts: tuple[str, int]) -> Membership:
    """Stage 0 of a run with a stage on each of these hosts, which have so many GPUs."""
    stages = [Member("stage", hostname=name, devices=gpus) for name, gpus in hosts]
    return Membership(1, (Member("coordinator"), *stages), members.stage().store)


def test_groups_for_nccl_are_formed_where_an_edge_needs_them(tmp_path: Path) -> None:
    two_hosts, one_host = run_on(("a", 1), ("b", 1)), run_on(("a", 2), ("a", 2))
    auto, nccl, cpu = (
        config_of(tmp_path, device=device, network__transport=transport)
        for device, transport in (("auto", "auto"), ("cuda", "nccl"), ("cpu", "auto"))
    )
    assert uses_nccl(auto, two_hosts)
    assert not uses_nccl(auto, one_host)
    assert uses_nccl(nccl, one_host)
    assert not uses_nccl(cpu, two_hosts)
    assert not uses_nccl(auto, run_on(("a", 1), ("b", 0)))


def test_a_run_computes_on_the_cpu_where_no_host_has_a_gpu(tmp_path: Path) -> None:
    auto, cpu = (config_of(tmp_path, device=device) for device in ("auto", "cpu"))
    assert on_cpu(auto, run_on(("a", 0), ("b", 0)))
    assert not on_cpu(auto, run_on(("a", 0), ("b", 1)))
    assert on_cpu(cpu, run_on(("a", 1), ("b", 1)))


def test_a_run_computes_on_gpus_where_every_stage_has_one(tmp_path: Path) -> None:
    auto, cpu = (config_of(tmp_path, device=device) for device in ("auto", "cpu"))
    assert on_gpus(auto, run_on(("a", 1), ("b", 1)))
    assert not on_gpus(auto, run_on(("a", 0), ("b", 1)))
    assert not on_gpus(cpu, run_on(("a", 1), ("b", 1)))
