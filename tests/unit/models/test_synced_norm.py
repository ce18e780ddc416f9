"""BatchNorm over all replicas: the same as one over all their rows."""

from copy import deepcopy
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from common.errors import ConfigError
from common.models.synced_norm import SyncedNorm, set_gather, sync_norms
from common.rule.lockstep import Lockstep

ROWS, SHAPE = 3, (4, 5, 6)


def blocks(momentum: float | None = 0.1, affine: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4, momentum=momentum, affine=affine)
    if affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return nn.Sequential(nn.Conv2d(4, 4, 3), norm)


def passed(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """The output, the gradient of the input, and those of the parameters, of a loss that sums over the rows."""
    x = x.clone().requires_grad_()
    model.zero_grad()
    y = model(x)
    y.pow(3).sum().backward()
    assert x.grad is not None
    gradients = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    return y.detach(), x.grad, gradients


@pytest.mark.parametrize(("momentum", "affine"), [(0.1, True), (None, True), (0.3, False)])
@pytest.mark.parametrize("replicas", [2, 3])
def test_it_is_a_batchnorm_over_the_rows_of_all_replicas(replicas: int, momentum: float | None, affine: bool) -> None:
    single = blocks(momentum, affine)
    copies = [deepcopy(single) for _ in range(replicas)]
    lockstep = Lockstep(replicas)
    for replica, copy in enumerate(copies):
        sync_norms(copy)
        set_gather(copy, partial(lockstep.gather, replica))
    for step in range(3):
        x = torch.randn(replicas * ROWS, *SHAPE, generator=torch.Generator().manual_seed(step)) * 3 + 1
        parts = x.split(ROWS)
        found = lockstep.run([partial(passed, copy, part) for copy, part in zip(copies, parts, strict=True)])
        y, gradient, of_parameters = passed(single, x)
        torch.testing.assert_close(torch.cat([own[0] for own in found]), y)
        torch.testing.assert_close(torch.cat([own[1] for own in found]), gradient, rtol=1e-4, atol=1e-4)
        for name, value in of_parameters.items():
            torch.testing.assert_close(sum(own[2][name] for own in found), value, rtol=1e-4, atol=1e-3)
    for copy in copies:
        torch.testing.assert_close(copy.state_dict(), single.state_dict())
        assert all(map(torch.equal, copy.state_dict().values(), copies[0].state_dict().values()))
        assert torch.equal(copy.eval()(x), copies[0].eval()(x))
        torch.testing.assert_close(copy.eval()(x), single.eval()(x))


def test_alone_it_is_a_plain_batchnorm() -> None:
    single, synced = blocks(), blocks()
    sync_norms(synced)
    x = torch.randn(ROWS, *SHAPE)
    assert torch.equal(single(x), synced(x))
    assert all(map(torch.equal, single.state_dict().values(), synced.state_dict().values()))


def test_a_sixteen_bit_input_is_normalised_in_float32() -> None:
    model = nn.Sequential(nn.BatchNorm1d(4))
    sync_norms(model)
    set_gather(model, lambda own: [own])
    with torch.autocast("cpu", torch.bfloat16):
        y = model(torch.full((8, 4), 3.0, dtype=torch.bfloat16))
    assert y.dtype == torch.bfloat16
    norm = model[0]
    assert isinstance(norm, SyncedNorm)
    assert norm.running_mean is not None
    assert norm.running_mean.dtype == torch.float32


def test_models_without_torchs_batchnorm_are_refused() -> None:
    class Other(nn.BatchNorm2d):
        pass

    with pytest.raises(ConfigError, match="this one has none: leave it out"):
        sync_norms(nn.Linear(2, 2))
    with pytest.raises(ConfigError, match="1 is a Other"):
        sync_norms(nn.Sequential(nn.BatchNorm2d(2), Other(2)))
