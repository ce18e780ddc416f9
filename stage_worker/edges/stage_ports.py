"""Builds a stage's ports: for training, and for each evaluation."""

from dataclasses import replace
from typing import TypeVar

from common.rule.schedule import Schedule
from stage_worker.edges.connect import Edges
from stage_worker.edges.ends import Receiver, Sender
from stage_worker.edges.ports import EdgePorts

_End = TypeVar("_End", Receiver, Sender)


def training_ports(intakes: EdgePorts, edges: Edges, schedule: Schedule, origin: int) -> EdgePorts:
    """The ports of a training whose pipeline starts empty at tick `origin`. `intakes`: ports without edges."""
    links = edges.links
    inputs, skips_in = _parted(
        [edges.receiver("forward", s, origin + schedule.first_input(s) + links.ticks[s]) for s in links.below]
    )
    outputs, skips_out = _parted([edges.sender("forward", t) for t in links.above])
    gradients_in, skip_gradients_in = _parted(
        [edges.receiver("backward", t, origin + schedule.first_gradient(t) + links.ticks[t]) for t in links.above]
    )
    gradients_out, skip_gradients_out = _parted([edges.sender("backward", s) for s in links.below])
    return replace(
        intakes,
        inputs=inputs,
        outputs=outputs,
        gradients_in=gradients_in,
        gradients_out=gradients_out,
        skips_in=skips_in,
        skips_out=skips_out,
        skip_gradients_in=skip_gradients_in,
        skip_gradients_out=skip_gradients_out,
    )


def evaluation_ports(intakes: EdgePorts, edges: Edges, schedule: Schedule) -> EdgePorts:
    """The ports of an evaluation, with edges of their own, so that training packets in flight are left alone."""
    links = edges.links
    inputs, skips_in = _parted(
        [edges.receiver("evaluation", s, schedule.first_input(s) + links.ticks[s]) for s in links.below]
    )
    outputs, skips_out = _parted([edges.sender("evaluation", t) for t in links.above])
    return replace(intakes, inputs=inputs, outputs=outputs, skips_in=skips_in, skips_out=skips_out)


def _parted(ends: list[_End]) -> tuple[_End | None, list[_End]]:
    """The end at the neighbour, which is the first, if there is one, and those of skips."""
    return (ends[0], ends[1:]) if ends else (None, [])
