"""The expected results of a distributed run: the one-process reference and plain backpropagation on the same frames."""

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from common.config.settings import Config
from common.rule.label_form import form_of
from common.rule.loss import Target
from common.rule.packet import Packet
from common.rule.reference import Reference, build_stages
from common.rule.replicas import ReplicatedReference
from common.rule.stage import Stage
from coordinator.video.decoder_pool.clip_player import Job
from coordinator.video.files.clips import collect
from coordinator.video.slots import Slots
from coordinator.video.targets import StepStream, packet_of


def stages_of(config: Config, classes: int) -> list[Stage]:
    """The stages of a run, built as the workers build them."""
    return build_stages(config, classes, config.ticks or 0)


def inputs_of(config: Config) -> Iterator[tuple[Packet, Target | None]]:
    """The frames and targets of a run, tick by tick."""
    clips = collect(config.data, "train", config.has_labels, task=config.task)
    slots = Slots(Job(clips.clips, config.data, config.seed, train=True), form=clips.form)
    steps = StepStream(slots, config, ends=False)
    assert config.ticks is not None
    for tick in range(config.ticks):
        step = steps.next()
        assert step is not None
        target = packet_of(step.target, config, tick)
        loss_target = Target(target.tensor, target.clips) if not config.has_labels else None
        yield packet_of(step.batch, config, tick), loss_target
    slots.close()


def weights_of(stages: list[Stage]) -> dict[str, Tensor]:
    """The weights that would be exported: their average, if there is one."""
    for stage in stages:
        stage.swap_average()
    return {name: value.clone() for stage in stages for name, value in stage.weights().items()}


def replicated_run(config: Config) -> tuple[list[list[float]], dict[str, Tensor]]:
    """Each replica's losses, and the final parameters, of the one-process reference on a run's frames."""
    count, share = config.replicas, config.of_replica
    reference = ReplicatedReference(
        [build_stages(share, 3, config.ticks or 0, replica) for replica in range(count)], share.frame_shape
    )
    losses: list[list[float]] = [[] for _ in range(count)]
    for inputs in shares_of(config):
        for own, loss in zip(losses, reference.tick(inputs), strict=True):
            own += [] if loss is None else [float(loss)]
    return losses, weights_of(reference.replicas[0])


def shares_of(config: Config) -> Iterator[list[tuple[Packet, Target | None]]]:
    """The frames and targets of a run, tick by tick, for each replica."""
    rows = config.of_replica.data.slots
    for packet, target in inputs_of(config):
        inputs: list[tuple[Packet, Target | None]] = []
        for first in range(0, config.data.slots, rows):
            own = slice(first, first + rows)
            part = Packet(config.of_replica.frame_shape, labels=form_of(config.task, 3))
            part.set_header(packet.tick, packet.frame)
            part.clips[:], part.labels[:] = packet.clips[own], packet.labels[own]
            part.tensor.copy_(packet.tensor[own])
            inputs.append((part, target and Target(target.tensor[own], target.clips[own])))
        yield inputs


def reference_run(config: Config) -> tuple[list[float], dict[str, Tensor]]:
    """The losses and final parameters of the one-process reference on a run's frames."""
    reference = Reference(stages_of(config, 3), config.frame_shape)
    losses = [reference.tick(packet, target) for packet, target in inputs_of(config)]
    return [float(loss) for loss in losses if loss is not None], weights_of(reference.stages)


def backpropagation_run(config: Config) -> tuple[list[float], dict[str, Tensor]]:
    """The same for plain backpropagation through all stages in one process, by micro-batches."""
    stages, losses = stages_of(config, 3), []
    size = config.data.slots // config.micro_batch_count
    for tick, (packet, target) in enumerate(inputs_of(config)):
        parts = []
        for number in range(config.micro_batch_count):
            rows = slice(number * size, (number + 1) * size)
            y = packet.tensor[rows]
            for stage in stages:
                if stage.memories:
                    stage.memories.begin(packet.clips[rows], tick, y.device, number)
                y = stage.run(y, tick, number).contiguous()  # as it is sent; layouts may have other kernels
            parts.append(stages[-1].objective(y, packet, target, rows) / config.micro_batch_count)
            parts[-1].backward()
        losses.append(float(torch.stack([loss.detach() for loss in parts]).sum()))
        for stage in stages:
            stage.update()
    return losses, weights_of(stages)


def losses_of(run: Path, replica: int = 0) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [loss for line in lines if line.get("replica", 0) == replica for loss in line.get("losses", [])]


def same_model(first: Path, second: Path) -> bool:
    models: list[dict[str, Tensor]] = [load_file(run / "model.safetensors") for run in (first, second)]
    return set(models[0]) == set(models[1]) and all(torch.equal(models[0][name], models[1][name]) for name in models[0])
