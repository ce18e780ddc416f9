"""Settings of a run that contradict each other, and settings that have no effect beside the others."""

from collections.abc import Callable, Iterator
from itertools import chain
from typing import TYPE_CHECKING

from common.config.tasks import LOSSES

if TYPE_CHECKING:
    from common.config.settings import Config

Problems = Iterator[str]

_LAST_PORT = 65535


def contradictions(run: "Config") -> Problems:
    """What is wrong with the settings as a whole, each with its remedy. Only the first is sure to be one."""
    return chain.from_iterable(check(run) for check in _CHECKS)


def without_effect(run: "Config", total_ticks: int) -> list[str]:
    """Warnings about settings that have no effect in a training of `total_ticks`."""
    return [text for text, ignored in _ignored(run, total_ticks) if ignored]


def _ignored(run: "Config", total_ticks: int) -> Iterator[tuple[str, bool]]:
    own_loss = run.loss_name != "cross_entropy"
    yield 'ahead has no effect unless task = "predict"', run.ahead > 1 and run.task != "predict"
    yield "rule.auxiliary has no effect in a single stage", run.rule.auxiliary > 0 and run.stages == 1
    yield (
        'class_weights has no effect unless task = "classify", or with a loss of your own',
        bool(run.class_weights) and own_loss,
    )
    yield 'data.balance has no effect unless task = "classify"', run.data.balance and run.task != "classify"
    yield "answer has no effect on tasks without labels", run.answer != "mean" and not run.has_labels
    yield (
        'answer has no effect on evaluations with data.labels_of = "frames": they score every frame by itself',
        run.answer != "mean" and run.data.labels_of == "frames",
    )
    yield (
        'label_smoothing has no effect unless task = "classify", or with a loss of your own',
        run.label_smoothing > 0 and own_loss,
    )
    yield (
        'norm = "frozen" without weights keeps the statistics that a new BatchNorm begins with',
        run.norm == "frozen" and run.weights is None,
    )
    yield (
        "micro_batches has no effect unless the algorithm is gpipe or 1f1b, with several stages",
        run.micro_batches is not None and (run.stages == 1 or run.algorithm in ("sideways", "backprop")),
    )
    yield (
        f"optimiser.warmup covers all {total_ticks} ticks: the full learning rate is never reached",
        run.optimiser.warmup >= total_ticks,
    )


def _length(run: "Config") -> Problems:
    if (run.ticks is None) == (run.epochs is None):
        yield "set the length of the training: either ticks or epochs, not both"
    if run.data.live and run.ticks is None:
        yield "data.sources have no end, so epochs cannot be counted: set ticks instead"


def _split(run: "Config") -> Problems:
    if run.split is not None and (len(run.split) != run.stages or min(run.split) < 1):
        yield f"split = {run.split} must have one number of at least 1 for each of the {run.stages} stages"


def _labels(run: "Config") -> Problems:
    if run.data.sources and run.has_labels:
        yield 'data.sources have no labels: set task to "autoencode" or "predict"'
    if run.data.balance and (run.task in ("multilabel", "regress") or run.data.labels_of == "frames"):
        yield 'data.balance needs one class for each clip, so task = "classify" and labels of clips'
    if run.data.balance and run.class_weights == "balanced":
        yield 'data.balance plays the classes equally often already: leave out class_weights = "balanced"'
    if run.data.flip_targets and run.task != "regress":
        yield 'data.flip_targets is for task = "regress": leave it out'
    if run.task == "regress" and run.data.flip and run.data.flip_targets is None:
        yield (
            f"data.flip = {run.data.flip} mirrors frames, but not their numbers: list in data.flip_targets those "
            f"that change sign then, such as [0] if the first is x, measured from the middle of the frame, or [] "
            f"if none does; or set data.flip to 0"
        )
    if run.task == "predict" and run.data.snippets > 1:
        yield (
            'data.snippets play parts of a clip that do not follow each other, and task = "predict" would predict a '
            "frame of another part: leave it out"
        )
    if run.task == "predict" and run.data.window is not None and run.data.window <= run.ahead:
        yield (
            f"data.window = {run.data.window} ends before the frame that is {run.ahead} ahead (ahead), so there would "
            f"be nothing to predict: make it longer"
        )
    if run.data.jitter == "stages" and not run.may_jitter_later:
        yield 'data.jitter = "stages" needs a task with labels and frames of 8 bits: set it to "auto" or "decoders"'


def _loss(run: "Config") -> Problems:
    known = LOSSES[run.task]
    if run.loss_name not in known and ".py:" not in run.loss_name:
        yield (
            f'loss = "{run.loss}" is not one of task = "{run.task}": {", ".join(known)}, or '
            "path/to/file.py:function for your own"
        )
    if run.val_metrics and not run.has_labels:
        yield f'val_metrics compare answers with labels, but task = "{run.task}" has none: leave it out'
    if run.rule.auxiliary and run.probe.every:
        yield "probe.every compares with backpropagation, which has no auxiliary losses: set it to 0"
    if run.rule.auxiliary and (not run.has_labels or (run.exact_gradients and run.stages > 1)):
        yield 'rule.auxiliary is for tasks with labels and algorithm = "sideways": leave it out, or set it to 0'


def _replicas(run: "Config") -> Problems:
    if run.data.slots % run.replicas:
        yield (
            f"data.slots = {run.data.slots} cannot be shared by {run.replicas} replicas: set it to a multiple of "
            f"replicas"
        )
    if run.replicas > 1 and run.exact_gradients and run.stages > 1:
        yield (
            f'replicas with algorithm = "{run.algorithm}" need stages = 1, which is data-parallel '
            f'backpropagation: set stages or replicas to 1, or the algorithm to "sideways"'
        )
    if run.replicas > 1 and run.probe.every:
        yield "probe.every compares the gradients of a single replica: set it or replicas to 0 or 1"


def _norm(run: "Config") -> Problems:
    if run.norm == "sync" and run.replicas == 1:
        yield (
            'norm = "sync" takes the statistics of all replicas, and with one replica a BatchNorm has all rows '
            'anyway: set replicas to 2 or more, or norm = "trained"'
        )
    if run.norm == "sync" and (run.compile or run.graph):
        yield (
            'norm = "sync" exchanges statistics within a pass, which can be neither compiled nor replayed: set '
            "compile and graph to false"
        )


def _readers(run: "Config") -> Problems:
    if run.data.readers and run.replicas % run.data.readers:
        yield (
            f"data.readers = {run.data.readers} cannot share {run.replicas} replicas: set it to a divisor of "
            f"replicas, as each reader feeds as many"
        )
    if run.data.readers and run.probe.every:
        yield "probe.every needs the frames in the coordinator: set it or data.readers to 0"


def _exact(run: "Config") -> Problems:
    """What the algorithms with exact gradients need, and what they cannot do."""
    if (run.data.slots // run.replicas) % run.micro_batch_count:
        yield (
            f"data.slots = {run.data.slots} cannot be divided into {run.micro_batch_count} micro-batches: set "
            f"micro_batches to a divisor of data.slots"
        )
    if run.algorithm == "1f1b" and run.micro_batch_count < run.stages:
        yield (
            f"1f1b needs at least as many micro_batches as stages, but {run.micro_batch_count} is less than "
            f"{run.stages}: raise micro_batches"
        )
    if not run.exact_gradients:
        return
    if run.recovery.heals:
        yield (
            f'recovery.mode = "heal" needs algorithm = "sideways": with "{run.algorithm}" all stages must have '
            f'done the same updates, so set recovery.mode = "exact"'
        )
    if run.probe.every:
        yield f'probe.every is for algorithm = "sideways": "{run.algorithm}" has exact gradients, so set it to 0'
    if run.stages > 1 and run.channels_last:
        yield (
            f'memory_format = "channels_last" with algorithm = "{run.algorithm}" needs stages = 1, as torch\'s '
            'schedules exchange contiguous maps: set memory_format to "contiguous"'
        )
    if run.stages > 1 and run.graph is True:
        yield (
            f'graph = true with algorithm = "{run.algorithm}" needs stages = 1, as torch\'s schedules cannot be '
            'replayed: set graph to "auto" or false'
        )
    if run.skips and run.skips != "auto":
        yield f'skips are for algorithm = "sideways", not "{run.algorithm}": leave them out'
    if run.edge_ticks:
        yield f'network.edge_ticks is for algorithm = "sideways", not "{run.algorithm}": leave it out'
    if run.network.wire != "float32":
        yield f'network.wire is for algorithm = "sideways", not "{run.algorithm}": leave it out'
    if run.stages_per_process not in ("auto", 1):
        yield (
            f'stages_per_process is for algorithm = "sideways": with "{run.algorithm}" every stage needs a '
            "process of its own, so leave it out"
        )


def _skips(run: "Config") -> Problems:
    if run.skips == "auto":
        return
    if len(set(run.skips)) < len(run.skips):
        yield f"skips = {[list(skip) for skip in run.skips]} names a pair twice: leave one out"
    for source, target in run.skips:
        if not 0 <= source <= target - 2 <= run.stages - 3:
            yield (
                f"skips: [{source}, {target}] must lead from a stage to one at least two further up, and stages "
                f"are numbered from 0 to {run.stages - 1}"
            )
    if run.skips and run.probe.every:
        yield "probe.every compares with backpropagation, which has no skips: set it to 0"


def _edges(run: "Config") -> Problems:
    ticks = run.network.edge_ticks
    if isinstance(ticks, list) and len(ticks) != run.stages - 1:
        yield (
            f"network.edge_ticks = {ticks} must have one number for each of the {run.stages - 1} edges between "
            f"stages: or give one number for all"
        )


def _limits(run: "Config") -> Problems:
    if run.report.every > run.network.deadline:
        yield "report.every is longer than network.deadline, so stages would seem lost between reports: lower it"
    if run.metrics.port and run.metrics.port + run.total_stages > _LAST_PORT:
        yield (
            f"metrics.port = {run.metrics.port} leaves no port for each of the {run.total_stages} stages: "
            f"set it to {_LAST_PORT - run.total_stages} at most"
        )
    batch = run.frame_bytes
    if batch > run.network.max_message:
        yield (
            f"a frame batch of data.slots × data.channels × height × width pixels = {batch} bytes is larger than "
            f"network.max_message = {run.network.max_message}: reduce the batch or raise the limit"
        )


_CHECKS: tuple[Callable[["Config"], Problems], ...] = (
    _length, _split, _labels, _loss, _replicas, _norm, _readers, _edges, _skips, _exact, _limits,
)  # fmt: skip
