"""What to tell the user when a GPU fails, and whether a restart can help."""

import torch

from common.errors import ConfigError, PeerError, SidewaysError, first_line

# errors of the program, which come again: a wrong index, an unsupported card
_OF_THE_PROGRAM = ("device-side assert", "no kernel image", "invalid argument", "invalid configuration")


def gpu_failure(error: BaseException, place: str) -> SidewaysError | None:
    """The error to report in place of torch's; None if it is not a GPU's. `place`: the stage and the tick."""
    if isinstance(error, torch.OutOfMemoryError):
        return ConfigError(
            f"{place}: out of GPU memory ({first_line(error)}). Use fewer data.slots, more stages, or "
            'precision = "bfloat16"; `sideways partition` shows what each stage needs'
        )
    if not (isinstance(error, torch.AcceleratorError) or "CUDA error" in str(error)):
        return None
    line = first_line(error)
    if any(text in line for text in _OF_THE_PROGRAM):
        return SidewaysError(f'{place}: {line}. Set CUDA_LAUNCH_BLOCKING=1 to see where, or run with device = "cpu"')
    return PeerError(
        f"{place}: the GPU failed ({line}). The run continues from its last checkpoint if it may restart. If this "
        "recurs, look for Xid and ECC errors in `nvidia-smi -q` and `dmesg`"
    )
