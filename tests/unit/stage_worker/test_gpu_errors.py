"""A GPU's failure restarts the run, as a lost process does; an error of the program does not."""

import pytest
import torch

from common.errors import ConfigError, PeerError, SidewaysError
from stage_worker.gpu_errors import gpu_failure


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: uncorrectable ECC error encountered\nCompile with `TORCH_USE_CUDA_DSA` to enable …",
        "CUDA error: unspecified launch failure",
        "CUDA error: an illegal memory access was encountered",
    ],
)
def test_a_failed_gpu_is_a_reason_to_restart(text: str) -> None:
    for error in (torch.AcceleratorError(text), RuntimeError(text)):
        found = gpu_failure(error, "stage 2, tick 7")
        assert isinstance(found, PeerError)
        assert text.splitlines()[0] in str(found)
        assert "TORCH_USE_CUDA_DSA" not in str(found)


def test_an_error_of_the_program_ends_the_run() -> None:
    found = gpu_failure(torch.AcceleratorError("CUDA error: device-side assert triggered\nmore"), "stage 0")
    assert isinstance(found, SidewaysError)
    assert not isinstance(found, PeerError)
    assert found.code == 1


def test_too_little_memory_is_a_wrong_setting() -> None:
    found = gpu_failure(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."), "stage 0, tick 3")
    assert isinstance(found, ConfigError)
    assert "data.slots" in str(found)


def test_other_errors_are_left_alone() -> None:
    assert gpu_failure(RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "stage 0") is None
    assert gpu_failure(KeyError("x"), "stage 0") is None
