"""Ticks that are replays of what was recorded equal those that run, bit for bit, or a stage goes on without."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from common.config.settings import Config
from common.models import build
from common.rule.graphed_stage import GraphedStage
from common.rule.graphs import Work, obstacle
from common.rule.host_values import HostValues
from common.rule.loss import Target
from common.rule.packet import Packet
from common.rule.passes import Passes
from common.rule.reference import Reference, build_stages, stages_from
from common.rule.stage import Stage
from common.rule.updater import Updater
from tests.support.settings import config_of
from tests.support.tape import WAITING, Tape

MODELS = f"{Path(__file__).parents[2]}/support/models.py"
DROPOUT: dict[str, Any] = {"model": f"{MODELS}:with_dropout", "model_args": {}, "split": [2, 1, 2]}
CASES: dict[str, dict[str, Any]] = {
    "adamw": {},
    "dropout": DROPOUT,
    "bfloat16": {"precision": "bfloat16", "optimiser__args": {"betas": [0.9, 0.99], "weight_decay": 0.1}},
    "schedule": {
        "optimiser__schedule": "cosine",
        "optimiser__warmup": 8,
        "optimiser__clip": 0.05,
        "optimiser__ema": 0.9,
        "optimiser__rates": {"conv1": 0.1},
    },
    "momentum": {"optimiser__name": "SGD", "optimiser__args": {"momentum": 0.9}, "rule__boundary": "mix"},
    "batch-norm": {"model_args": {"width": 4, "norm": "batch"}, "memory_format": "channels_last"},
    "frozen": {"freeze": ["conv1", "conv4.*"]},
    "autoencode": {"task": "autoencode", "model": "autoencoder"},
}
TICKS = 20


def graphed(config: Config, recorder: Callable[[], Any] = Tape) -> list[Stage]:
    """Stages that may replay, with a recorder each."""
    model = build(config, 3)
    return stages_from(model, config, 3, TICKS, kind=lambda *a, **o: GraphedStage(*a, recorder=recorder(), **o))


class Pipeline:
    """Stages in one process, fed with frames of clips that end at different times."""

    def __init__(self, stages: list[Stage]) -> None:
        self.stages, self.config = stages, stages[0].config
        self.reference = Reference(stages, self.config.frame_shape)
        self.losses: list[float] = []

    def run(self, ticks: int) -> "Pipeline":
        for _ in range(ticks):
            self._tick(self.reference.tick_number)
        return self

    def _tick(self, tick: int) -> None:
        frame = Packet(self.config.frame_shape, channels_last=self.config.channels_last)
        frame.set_header(tick - 1, tick)
        torch.manual_seed(tick)
        frame.tensor.normal_()
        rows = np.arange(len(frame.clips))
        frame.clips[:] = 100 * rows + tick // (5 + rows)
        frame.labels[:] = (rows + tick // 4) % 4 - 1  # -1: a frame without a label
        loss = self.reference.tick(frame, None if self.config.has_labels else Target(frame.tensor, frame.clips))
        self.losses += [] if loss is None else [float(loss)]

    def state(self) -> dict[str, Tensor]:
        return {f"{stage.index}.{name}": value for stage in self.stages for name, value in stage.state().items()}


def same(first: Pipeline, second: Pipeline) -> bool:
    a, b = first.state(), second.state()
    return first.losses == second.losses and a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def config(folder: Path, **changes: Any) -> Config:
    return config_of(folder, **{"stages": 3, "ticks": TICKS, "graph": True, **changes})


@pytest.mark.parametrize("case", CASES)
def test_replayed_ticks_equal_those_that_run_bit_for_bit(tmp_path: Path, case: str) -> None:
    settings = config(tmp_path, **CASES[case])
    plain, own = (Pipeline(stages).run(TICKS) for stages in (build_stages(settings, 3, TICKS), graphed(settings)))
    assert [isinstance(stage, GraphedStage) and stage.replays for stage in own.stages] == [True] * 3
    assert same(plain, own)
    assert own.stages[0].gated == plain.stages[0].gated > 0 or settings.rule.boundary == "mix"
    assert own.stages[-1].objective.counted == plain.stages[-1].objective.counted
    assert torch.equal(own.stages[-1].objective.correct, plain.stages[-1].objective.correct)


def test_only_then_are_passes_recorded_and_each_tick_is_three_replays(tmp_path: Path) -> None:
    tapes: list[Tape] = []

    def recorder() -> Tape:
        tapes.append(Tape())
        return tapes[-1]

    own = Pipeline(graphed(config(tmp_path, stages=1), recorder))
    replayed = []
    for _ in range(7):
        own.run(1)
        replayed.append((tapes[0].recorded, tapes[0].replayed))
    assert replayed == [(0, 0), (0, 0), (3, 3), (3, 6), (3, 9), (3, 12), (3, 15)]


class Called(TorchDispatchMode):
    """Notes the operators that are called, but those of a replay, which are given to the device at once."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of what the host sends to the device."""
    shapes: list[tuple[int, ...]] = []
    before = HostValues.on

    def on(self: HostValues, device: torch.device, values: Any) -> Tensor:
        shapes.append(values.shape)
        return before(self, device, values)

    monkeypatch.setattr(HostValues, "on", on)
    return shapes


def test_a_replayed_tick_sends_the_mask_and_waits_for_nothing(
    tmp_path: Path, sent: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Pipeline(graphed(config(tmp_path))).run(14)
    stage, tape = own.stages[1], own.stages[1]._recorder  # type: ignore[attr-defined]
    for name in ("_forward", "_backward", "_update"):  # what the device does by itself
        monkeypatch.setattr(stage._passes, name, lambda: None)  # type: ignore[attr-defined]
    held, gradient = (Packet(own.shape) for own in (stage._passes._x, stage._passes.y))  # type: ignore[attr-defined]
    sent.clear()
    for foreign, masks in ((0, []), (1, [(3,)])):
        gradient.clips[:] = foreign
        with Called() as called:
            stage.forward(held)
            stage.backward(held, gradient)
            stage.update()
        assert sent == masks
        copies = [name for name in called.names if "copy" in name]
        assert copies == ["aten.copy_.default"] * 2  # x and g, which are where the stage computes
        assert not [name for name in called.names if any(part in name for part in WAITING)]
        assert not [name for name in called.names if "convolution" in name or "adam" in name]
    assert tape.replayed


class Counting(nn.Module):
    """A block that counts its passes in Python, which a recording keeps as it was."""

    passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        return x * (1 + 0.1 * self.passes)


class Waiting(nn.Module):
    """A block that waits for the device."""

    def forward(self, x: Tensor) -> Tensor:
        return x / max(1.0, float(x.detach().abs().max()))


def with_block(settings: Config, block: nn.Module, **options: Any) -> list[Stage]:
    model = build(settings, 3)
    model[1] = nn.Sequential(block, model[1])
    return stages_from(model, settings, 3, TICKS, **options)


@pytest.mark.parametrize(("block", "reason"), [(Counting, "its output differs"), (Waiting, "cannot be captured")])
def test_a_stage_that_cannot_be_replayed_says_so_and_goes_on(
    tmp_path: Path, block: type[nn.Module], reason: str
) -> None:
    settings = config(tmp_path)

    def kind(*arguments: Any, **options: Any) -> Stage:
        return GraphedStage(*arguments, recorder=Tape(), **options)

    own = Pipeline(with_block(settings, block(), kind=kind))
    with pytest.warns(UserWarning, match=f"stage 0: its ticks cannot be replayed as graphs .*{reason}"):
        own.run(TICKS)
    assert [stage.replays for stage in own.stages if isinstance(stage, GraphedStage)] == [False, True, True]
    if block is Waiting:
        assert same(Pipeline(with_block(settings, block())).run(TICKS), own)


class Wrong(Tape):
    """One of the recordings does nothing when it is replayed."""

    number = 0

    def record(self, work: Work) -> Work:
        replay = super().record(work)
        return replay if self.recorded != self.number else lambda: None


@pytest.mark.filterwarnings("ignore:.*cannot be replayed")
@pytest.mark.parametrize(("number", "reason"), [(1, "its output"), (2, "the gradient"), (3, "its parameters")])
def test_a_replay_that_differs_in_any_pass_is_not_used(tmp_path: Path, number: int, reason: str) -> None:
    settings = config(tmp_path)
    Wrong.number = number
    own = Pipeline(graphed(settings, Wrong))
    with pytest.warns(UserWarning, match=reason):
        own.run(TICKS)
    plain = Pipeline(build_stages(settings, 3, TICKS)).run(TICKS)
    assert same(plain, own)
    assert not any(stage.replays for stage in own.stages if isinstance(stage, GraphedStage))


def test_when_passes_are_recorded_no_graph_of_the_tick_is_left(tmp_path: Path) -> None:
    """As long as one is, a capture meets autograd's nodes of another stream, and fails."""
    [stage] = graphed(config(tmp_path, stages=1))
    pipeline, returned = Pipeline([stage]), []
    forward = stage.forward

    def noted(*arguments: Any) -> Tensor:
        returned.append(forward(*arguments))
        return returned[-1]

    stage.forward = noted  # type: ignore[method-assign, assignment]
    pipeline.run(5)
    assert [y.requires_grad for y in returned] == [True, True, False, False, False]


def test_the_cause_of_a_failed_recording_is_told(tmp_path: Path) -> None:
    """torch.cuda.graph raises another error when it ends a capture that has failed."""

    class Failing(Tape):
        def record(self, work: Work) -> Work:
            try:
                raise ValueError("the block reads a file\nat its end")
            finally:
                raise RuntimeError("operation failed due to a previous error during capture")

    own = Pipeline(graphed(config(tmp_path, stages=1), Failing))
    with pytest.warns(UserWarning, match=r"\(ValueError: the block reads a file\)"):
        own.run(5)


class Sum(nn.Module):
    """Whose parameters' gradients autograd returns as one tensor, which is the output's gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = (nn.Parameter(torch.ones(2, 3)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.a + self.b


def test_gradients_do_not_share_memory(tmp_path: Path) -> None:
    """Clipping scales each in place."""
    blocks = Sum()
    updater = Updater(blocks, config(tmp_path).optimiser, 1, 0, TICKS, captured=True)
    passes = Passes(blocks, updater, Tape(), torch.zeros(2, 3), torch.zeros(2, 3), is_first=False)
    passes.forward(torch.ones(2, 3), 0)
    r = passes.backward(torch.full((2, 3), 2.0))
    assert r is not None
    tensors = [r, blocks.a.grad, blocks.b.grad]
    assert all(tensor is not None and torch.equal(tensor, torch.full((2, 3), 2.0)) for tensor in tensors)
    assert len({tensor.data_ptr() for tensor in tensors if tensor is not None}) == 3


def test_a_restored_stage_records_anew(tmp_path: Path) -> None:
    settings = config(tmp_path, stages=1)
    plain, own = (Pipeline(stages).run(10) for stages in (build_stages(settings, 3, TICKS), graphed(settings)))
    for pipeline in (plain, own):
        stage = pipeline.stages[0]
        kept = {name: value.clone() for name, value in stage.state().items()}
        counters = stage.counters
        pipeline.run(3)
        stage.load(kept)
        stage.counters = counters
    assert not own.stages[0].replays  # type: ignore[attr-defined]
    for pipeline in (plain, own):
        pipeline.stages[0].set_rate(0.01)
        pipeline.run(8)
    assert own.stages[0].replays  # type: ignore[attr-defined]
    assert same(plain, own)


def test_what_cannot_be_replayed_is_named(tmp_path: Path) -> None:
    def of(**changes: Any) -> str:
        settings = config(tmp_path, **changes)
        return obstacle(settings, build(settings, 3), settings.replicas)

    assert of() == ""
    assert of(rule__every=2) == "rule.every above 1"
    assert of(optimiser__name="RMSprop") == "optimiser.name = 'RMSprop'"
    assert of(optimiser__args={"foreach": True}) == "optimiser.args.foreach"
    assert of(model_args={"width": 4, "temporal": "shift"}) == "blocks with a memory"
    assert of(skips=[[0, 2]]) == "skips"
    frozen = build(config(tmp_path), 3)[:2].requires_grad_(False)
    assert obstacle(config(tmp_path), frozen, 1) == "a stage with nothing to learn"
