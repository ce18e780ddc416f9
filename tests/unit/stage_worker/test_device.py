"""The choice and setup of a stage's device."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from common.config.run_file import parse
from common.config.settings import Config
from common.errors import ConfigError
from common.processes.membership import Membership
from stage_worker import device
from stage_worker.device import use_device
from tests.support import members


@pytest.fixture(autouse=True)
def _restore_torch() -> Iterator[None]:
    threads, precision, cudnn = torch.get_num_threads(), torch.get_float32_matmul_precision(), torch.backends.cudnn
    convolutions, benchmark = cudnn.allow_tf32, cudnn.benchmark
    yield
    torch.set_float32_matmul_precision(precision)
    cudnn.allow_tf32, cudnn.benchmark = convolutions, benchmark
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # so that monkeypatch restores it
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")


def config_of(**changes: object) -> Config:
    return parse({"ticks": 1, "stages": 4, "data": {"train": "."}, **changes}, "test")


def member(stage: int) -> Membership:
    return members.stage(stage, stages=4)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_cuda_auto_is_the_cpu_and_cuda_an_error() -> None:
    assert use_device(config_of(), member(0)).type == "cpu"
    with pytest.raises(ConfigError, match='use "auto" or "cpu"'):
        use_device(config_of(device="cuda"), member(0))


@pytest.mark.usefixtures("two_gpus")
def test_stages_of_a_host_share_its_devices_with_their_neighbours() -> None:
    assert [use_device(config_of(), member(stage)).index for stage in range(4)] == [0, 0, 1, 1]
    assert use_device(config_of(device="cpu"), member(1)).type == "cpu"


@pytest.mark.usefixtures("two_gpus")
def test_deterministic_algorithms_are_used_only_on_request_and_on_cuda() -> None:
    use_device(config_of(), member(0))
    assert not torch.are_deterministic_algorithms_enabled()
    use_device(config_of(deterministic=True), member(0))
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.is_deterministic_algorithms_warn_only_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    use_device(config_of(deterministic=True, device="cpu"), member(0))  # the same worker, configured again
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_gpu_that_torch_cannot_use_is_not_passed_over_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = tmp_path / "version"
    monkeypatch.setattr(device, "_NVIDIA_DRIVER", driver)
    assert device.unusable_gpu() is None
    driver.touch()
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.warns(UserWarning, match="torch is built for the CPU: training on the CPU"):
        assert use_device(config_of(), member(0)).type == "cpu"
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(ConfigError, match=r"its driver may be too old for CUDA 13.0: use"):
        use_device(config_of(device="cuda"), member(0))


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(("tf32", "precision"), [(True, "high"), (False, "highest")])
def test_convolutions_and_matrix_products_are_equally_precise(tf32: bool, precision: str) -> None:
    use_device(config_of(tf32=tf32), member(0))
    assert torch.get_float32_matmul_precision() == precision
    assert torch.backends.cudnn.allow_tf32 == tf32


@pytest.mark.usefixtures("two_gpus")
def test_kernels_are_only_chosen_by_time_where_runs_need_not_be_equal() -> None:
    for deterministic in (False, True):
        use_device(config_of(deterministic=deterministic), member(0))
        assert torch.backends.cudnn.benchmark != deterministic
