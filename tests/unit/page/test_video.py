"""Moments of the pipeline in pictures: taken while somebody looks, of exactly the frames that the stages hold."""

import base64
import json
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from common.config.settings import Config
from common.errors import PeerError
from common.messages.stage_rpc import Stages
from common.rule.label_form import form_of
from common.rule.pixels import Normaliser
from coordinator.page.pipeline_preview import PreviewSettings
from coordinator.page.video import VideoView
from coordinator.video.batch import Batch
from coordinator.video.preview import Preview, preview_of
from coordinator.video.targets import Step
from stage_worker.reporting.output_sampler import OutputSampler
from tests.support.page import config_of

CLASSES = ["ant", "bee", "cat"]


class Done:
    """An answer that is there."""

    done = True

    def __init__(self, value: Any) -> None:
        self.value = value

    def answers(self) -> list[Any]:
        if isinstance(self.value, Exception):
            raise self.value
        return [self.value]


class Readers:
    """Another process, which reads the steps and tells what it was asked for three ticks later."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[int], int, int, Callable[[Preview], None]]] = []
        self.told: list[tuple[int, Preview, Callable[[Preview], None]]] = []

    def request_previews(self, frames: list[int], rows: int, every: int, take: Callable[[Preview], None]) -> None:
        self.asked.append((frames, rows, every, take))

    def read(self, tick: int, step: Step) -> None:
        for frames, rows, every, take in self.asked:
            if tick in frames:
                self.told.append((tick + 3, preview_of(tick, step, rows, every), take))
        while self.told and self.told[0][0] <= tick:
            _, seen, take = self.told.pop(0)
            take(seen)


class Run:
    """A run whose frame n is full of the number n: steps, a top stage that gives n too, a clock of 10 ms a tick."""

    def __init__(self, config: Config, output: Tensor | None = None, readers: "Readers | None" = None) -> None:
        self.config, self.tick, self.time, self.calls = config, 0, 100.0, list[str]()
        self.readers = readers
        self.view = VideoView(config, CLASSES, cast(Stages, self), lambda: self.time, readers)
        self.sampler, self.output = OutputSampler(), output
        self.late, self.lost = 0, False
        self.batch = Batch(config.frame_shape, config.data.pixel_type, form_of(config.task, len(CLASSES)))
        self.target = self.batch if config.task != "predict" else Batch(config.frame_shape)

    def begin_one(self, stage: int, call: Any, *args: Any) -> Done:
        assert stage == self.config.stages - 1
        self.calls.append(call.__name__)
        if self.lost:
            return Done(PeerError("stage 2 is gone"))
        if call.__name__ == "sampled_output":
            return Done(self.sampler.sample)
        frame, *rest = args
        assert frame > self.tick
        self.sampler.ask(frame + self.late, *rest)
        return Done(None)

    def run(self, ticks: int) -> None:
        for _ in range(ticks):
            self.batch.frames[:] = self.tick % 2**self.config.data.bits
            if self.target is not self.batch:
                self.target.frames[:] = self.tick % 100 + 1
            self.batch.labels[:] = self.tick % 3
            self.batch.clips[:], self.target.clips[:-1] = 5, 5  # the last row's target is of another clip
            step = Step(self.batch, self.target, False)
            if self.view.wanted:
                self.view.see(self.tick, step if self.readers is None else None)
            if self.readers is not None:
                self.readers.read(self.tick, step)
            held = self.tick - PreviewSettings(self.config, CLASSES).ticks[-1]
            if held >= self.sampler.due:
                self.sampler.take(held, self._output(held))
            self.tick += 1
            self.time += 0.01

    def _output(self, frame: int) -> Tensor:
        if self.output is not None:
            return self.output
        if not self.config.has_labels:
            output = torch.empty(self.config.frame_shape)
            Normaliser(*self.config.data.normalisation)(
                output, torch.full(output.shape, frame % 256, dtype=torch.uint8)
            )
            return output
        return torch.eye(3)[[frame % 3] * self.config.data.slots] * 9

    def preview(self, shown: int = -1) -> dict[str, Any]:
        answer = self.view.answer(shown)
        assert answer is not None
        return json.loads(answer)


def values(pictures: list[str]) -> list[set[int]]:
    return [set(base64.b64decode(picture)) for picture in pictures]


def test_nothing_is_copied_or_asked_unless_somebody_looks() -> None:
    run = Run(config_of())
    run.run(50)
    assert (run.view.wanted, run.calls) == (False, [])
    assert run.view.answer(-1) is None
    assert run.view.wanted
    run.run(190)  # 1.9 s
    assert run.view.wanted
    assert 6 <= run.calls.count("sample_output") <= 9  # a few a second
    run.run(60)
    assert not run.view.wanted
    calls = len(run.calls)
    run.run(50)
    assert len(run.calls) == calls
    assert run.preview()["tick"] <= 50 + 190 + 60


@pytest.mark.parametrize(
    ("changes", "ticks"),
    [
        ({"stages": 1}, [0]),
        ({"stages": 3}, [0, 1, 2]),
        ({"stages": 3, "network": {"edge_ticks": [2, 3]}}, [0, 2, 5]),
        ({"stages": 3, "algorithm": "backprop"}, [0, 0, 0]),
    ],
)
def test_the_pictures_are_of_the_frames_that_the_stages_hold(changes: dict[str, Any], ticks: list[int]) -> None:
    run = Run(config_of(**changes))
    run.view.answer(-1)
    seen = set[int]()
    for _ in range(8):
        run.run(17)
        preview = run.preview()
        tick = preview["tick"]
        assert [stage["frame"] for stage in preview["stages"]] == [tick - late for late in ticks]
        for stage in preview["stages"]:
            assert values(stage["pictures"]) == [{stage["frame"]}] * 4
        name = CLASSES[(tick - ticks[-1]) % 3]
        assert [(answer["says"], answer["truth"]) for answer in preview["answers"]] == [(name, name)] * 4
        assert preview["answers"][0]["confidence"] == pytest.approx(0.9998, abs=1e-4)
        assert run.view.answer(tick) is None  # it is shown already
        seen.add(tick)
    assert len(seen) > 3


@pytest.mark.parametrize("task", ["classify", "predict"])
def test_frames_that_another_process_reads_are_shown_likewise(task: str) -> None:
    data = {"train": ".", "slots": 2, "size": 32, "channels": 1}
    run = Run(config_of(task=task, data=data), readers=Readers())
    run.view.answer(-1)
    for _ in range(3):
        run.run(40)
        preview = run.preview()
        assert [stage["frame"] for stage in preview["stages"]] == [preview["tick"] - late for late in range(3)]
        for stage in preview["stages"]:
            assert values(stage["pictures"]) == [{stage["frame"]}] * 2
        frame = preview["tick"] - 2
        if task == "predict":
            assert values([preview["answers"][0]["target"]]) == [{frame % 100 + 1}]
        else:
            assert preview["answers"][0]["truth"] == CLASSES[frame % 3]


def test_a_late_request_shows_nothing_wrong_and_the_next_one_is_made_earlier() -> None:
    run = Run(config_of())
    run.view.answer(-1)
    run.late = 1
    run.run(60)
    assert run.view.answer(-1) is None
    run.late = 0
    run.run(60)
    preview = run.preview()
    assert values(preview["stages"][0]["pictures"])[0] == {preview["tick"]}
    assert run.view._lead > 2


def test_a_lost_stage_is_left_to_others_to_report() -> None:
    run = Run(config_of())
    run.view.answer(-1)
    run.lost = True
    run.run(60)
    assert run.view.answer(-1) is None
    run.lost = False
    run.run(60)
    assert run.preview()["stages"]


def test_a_preview_that_is_not_completed_is_dropped_after_the_deadline() -> None:
    run = Run(config_of(network={"deadline": 1}))
    run.view.answer(-1)
    run.late = 10**9
    run.run(5)
    for _ in range(2):
        run.view.answer(-1)
        run.run(90)
    assert run.calls.count("sample_output") == 2


@pytest.mark.parametrize("task", ["autoencode", "predict"])
def test_pictures_of_the_top_stage_beside_what_they_should_be(task: str) -> None:
    run = Run(config_of(task=task, data={"train": ".", "slots": 2, "size": 32, "channels": 1}))
    run.view.answer(-1)
    run.run(30)
    preview = run.preview()
    frame = preview["tick"] - 2
    assert [values([answer["output"]]) for answer in preview["answers"]] == [[{frame}]] * 2
    targets = [answer.get("target") for answer in preview["answers"]]
    if task == "predict":
        assert targets[1] is None
        assert values(targets[:1]) == [{frame + 1}]
    else:
        assert targets == [None, None]


def test_large_frames_are_shown_smaller_and_only_a_few_of_replica_0() -> None:
    data = {"train": ".", "slots": 12, "size": [120, 200], "channels": 1, "bits": 16}
    settings = PreviewSettings(config_of(replicas=2, data=data), CLASSES)
    assert (settings.rows, settings.every) == (4, 4)
    assert (
        PreviewSettings(config_of(algorithm="gpipe", micro_batches=4, data={"train": ".", "slots": 8}), CLASSES).rows
        == 2
    )
    run = Run(config_of(data=data))
    run.view.answer(-1)
    run.tick = 256
    run.run(30)
    preview = run.preview()
    assert (preview["width"], preview["height"]) == (50, 30)
    assert values(preview["stages"][0]["pictures"]) == [{preview["tick"] >> 8}] * 4
    assert [len(base64.b64decode(picture)) for picture in preview["stages"][0]["pictures"]] == [50 * 30] * 4


def test_answers_of_other_tasks() -> None:
    output = torch.tensor([[-2.0, 3.0, 1.0], [0.5, 0.25, 0.125]])
    data = {"train": ".", "slots": 2}
    run = Run(config_of(task="multilabel", data=data), output)
    run.view.answer(-1)
    run.run(30)
    first, second = run.preview()["answers"]
    right = first["truth"] != ""
    assert first == {"says": "bee", "confidence": 0.9526, "truth": first["truth"], "right": right}
    assert first["truth"] in ("", "ant, bee, cat")  # the labels are 0 or another number
    assert second["says"] == "ant"
    run = Run(config_of(task="regress", data=data), output)
    run.view.answer(-1)
    run.run(30)
    assert run.preview()["answers"][0]["says"] == "-2, 3, 1"
    assert run.preview()["answers"][0]["confidence"] is None
    assert run.preview()["answers"][0]["right"] is None


def test_a_row_without_a_label_has_no_truth() -> None:
    run = Run(config_of())
    run.view.answer(-1)
    run.run(30)
    preview = run.view._shown
    assert preview is not None
    preview._held[preview.frame].labels[1] = -1
    assert [answer["truth"] is None for answer in run.preview()["answers"]] == [False, True, False, False]
