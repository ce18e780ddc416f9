"""Import of torchvision that also works with a CPU-only torch.

torchvision's wheel is built for CUDA. With a CPU build of torch its compiled operators do not load, and importing
its Python part fails where it registers shapes for `nms` and `qnms`. Declaring these two is enough for models,
transforms.v2 and datasets; nothing here calls them. Import torchvision through this module only.
"""

import torch

try:
    from torchvision.transforms import v2
except RuntimeError as error:
    if "torchvision::" not in str(error):
        raise
    import sys

    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]  # half-imported
    _operators = torch.library.Library("torchvision", "DEF")
    _operators.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _operators.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from torchvision.transforms import v2

from torchvision import models

__all__ = ["models", "v2"]
