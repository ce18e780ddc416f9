"""Settings that contradict each other, or have no effect."""

import pytest

from common.config.consistency import without_effect
from common.config.run_file import parse
from common.errors import ConfigError


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"algorithm": "gpipe", "micro_batches": 3}, "cannot be divided into 3 micro-batches"),
        ({"algorithm": "1f1b", "micro_batches": 1}, "1f1b needs at least as many micro_batches as stages"),
        ({"algorithm": "backprop", "probe": {"every": 5}}, "probe.every is for algorithm"),
        ({"algorithm": "backprop", "network": {"edge_ticks": 2}}, "network.edge_ticks is for algorithm"),
        ({"network": {"edge_ticks": [2, 3]}}, "must have one number for each of the 1 edges between stages"),
        ({"norm": "sync"}, "with one replica a BatchNorm has all rows anyway: set replicas to 2 or more"),
        ({"norm": "sync", "replicas": 2, "graph": "auto"}, "set compile and graph to false"),
        ({"norm": "sync", "replicas": 2, "compile": True}, "set compile and graph to false"),
        ({"optimiser": {"steps": [0.7, 0.2]}}, "must be increasing fractions"),
        ({"data": {"sources": ["/dev/video0"], "slots": 4}}, "data.sources have no labels"),
        (
            {"task": "predict", "data": {"train": ".", "snippets": 2, "window": 4}},
            "would predict a frame of another part",
        ),
        ({"task": "predict", "ahead": 4, "data": {"train": ".", "window": 4}}, "ends before the frame that is 4 ahead"),
        ({"task": "regress", "data": {"train": ".", "slots": 4, "flip": 0.5}}, "list in data.flip_targets those that"),
        ({"data": {"train": ".", "slots": 4, "flip_targets": [0]}}, 'data.flip_targets is for task = "regress"'),
        ({"data": {"sources": ["a"]}, "task": "predict", "ticks": None, "epochs": 1}, "set ticks instead"),
        ({"replicas": 4, "data": {"train": ".", "readers": 3}}, "data.readers = 3 cannot share 4 replicas"),
        ({"data": {"train": ".", "readers": 1}, "probe": {"every": 5}}, "needs the frames in the coordinator"),
        (
            {"task": "predict", "data": {"train": ".", "jitter": "stages"}},
            "needs a task with labels and frames of 8 bits",
        ),
        ({"task": "predict", "data": {"sources": ["/dev/video0"], "readers": 1}}, "data.readers are for files"),
    ],
)
def test_contradictory_settings_are_an_error(change: dict[str, object], message: str) -> None:
    tree = {"ticks": 10, "data": {"train": ".", "slots": 4}, "stages": 2, **change}
    with pytest.raises(ConfigError, match=message):
        parse({key: value for key, value in tree.items() if value is not None}, "test")


def test_settings_without_effect_are_reported() -> None:
    tree = {"ticks": 10, "data": {"train": ".", "slots": 4}, "stages": 2}
    given = {**tree, "ahead": 2, "micro_batches": 2, "optimiser": {"warmup": 10}}
    warnings = " ".join(without_effect(parse(given, "test"), 10))
    assert all(name in warnings for name in ("ahead", "micro_batches", "optimiser.warmup"))
    frames = parse({**tree, "answer": "last", "data": {"train": ".", "slots": 4, "labels_of": "frames"}}, "test")
    assert "answer has no effect on evaluations with data.labels_of" in without_effect(frames, 10)[0]
    smoothed = parse({**tree, "task": "autoencode", "label_smoothing": 0.1}, "test")
    assert "label_smoothing" in without_effect(smoothed, 10)[0]
    alone = parse({**tree, "stages": 1, "algorithm": "gpipe", "micro_batches": 3}, "test")
    assert alone.micro_batch_count == 1
    assert "micro_batches has no effect" in without_effect(alone, 10)[0]
    assert without_effect(parse(tree, "test"), 10) == []
    assert without_effect(parse({**given, "task": "predict", "algorithm": "gpipe"}, "test"), 100) == []
