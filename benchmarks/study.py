"""When does Sideways learn as well as backpropagation? Many small trainings in one process each, and what they scored.

    python benchmarks/study.py [STUDY …] [--json] [--seeds 3] [--epochs 8] [--jobs 2] [--clips FOLDER] [--out FOLDER]

The one-process reference trains: it equals the run of several processes bit for bit (tests/distributed/test_exact.py),
so its scores are theirs, and `--jobs` of them run beside each other. vgg8 of width 16 learns human actions
(MSR-Action3D depth videos, 20 classes, 32 × 32 grey pixels, 64 slots) of people 1, 3, 5 and 7; the score is the top-1
of the 56 clips of person 9, the mean of three evaluations in the last quarter of the training, where the rate's cosine
brings the weights to rest.

tune       each contender's learning rate and what goes with it, the same number of tries for each, seed 0
claim      each contender with the best of these, seeds 1, 2, …
tricks     what the literature offers against delayed gradients and correlated frames, one at a time
strides    every n-th frame only: faster video; ticks as many as without
windows    clips of so many frames only; ticks as many as without

With strides and windows come the mean cosine and norm ratio between pseudo-gradients and backpropagation's gradients,
over all stages but the top, and the change from a frame to the next, ‖x(k) - x(k-1)‖ / ‖x(k)‖.

Each training that has ended is a line of FOLDER/runs.jsonl: an interrupted study goes on after the last of them.
"""

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.bench import ROOT, count, span

if TYPE_CHECKING:
    import torch

    from common.config import Config
    from common.packet import Packet
    from common.stage import Stage
    from coordinator.course import Batch
    from coordinator.material import Material

CLIPS = ROOT.parent / "shared" / "data" / "msr_action3d"
SPLITS = {1: [8], 2: [3, 5], 4: [2, 2, 2, 2], 8: [1] * 8}
CONTENDERS = {"backprop": 1, "D = 2": 2, "D = 4": 4, "D = 8": 8}
TUNED = ("backprop", "D = 4", "D = 8")
EVALUATIONS, QUARTER = 12, 3  # of a training, and those that count
PROBES = 12

Settings = dict[str, Any]  # by their dotted names
MOMENTUM = {"optimiser.args.betas": [0.9, 0.999]}
EQUAL = {"optimiser.lr_by_mismatch": False}
RATES = (1e-3, 2e-3, 4e-3, 8e-3)
REMEDY = "remedy."  # begins the names of those settings that only benchmarks/remedies.py knows
ANYBODYS: dict[str, Settings] = {
    "as tuned": {},
    "momentum 0.9": MOMENTUM,
    "mean of 2 ticks": {"rule.every": 2},
    "average of weights 0.99": {"optimiser.ema": 0.99},
    "128 slots": {"data.slots": 128},
    "orthogonal gradients 0.9": {f"{REMEDY}orthogonal": 0.9},
}
AGAINST_DELAY: dict[str, Settings] = {
    "Nesterov momentum 0.9 (NAdam)": {"optimiser.name": "NAdam", "optimiser.args.betas": [0.9, 0.999]},
    "weights predicted": {f"{REMEDY}lookahead": 1.0},
    "gradients of other clips kept": {"rule.boundary": "mix"},
}


@dataclass(frozen=True)
class Job:
    """One training."""

    study: str
    row: str
    contender: str
    seed: int
    epochs: float
    settings: Settings = field(default_factory=dict)
    clips: Path = CLIPS

    @property
    def key(self) -> str:
        """What makes it this training: the same one may be asked for by several studies."""
        return json.dumps([self.contender, self.seed, self.epochs, self.settings], sort_keys=True)


Record = dict[str, Any]  # key, and what `train` returns
Figures = dict[str, dict[str, dict[str, float]]]  # by row, contender and name


# ---- a training


def train(job: Job) -> Record:
    """In a process of its own. Raises what the product would end with."""
    import torch

    from coordinator.material import Material

    torch.set_num_threads(1)
    start = time.monotonic()
    config = config_of(job)
    material = Material(config, lambda text: None, lambda: None)
    shown = list(evaluation_frames(config, material))
    scores: list[float] = []
    probe = Probe(config, len(material.train.classes)) if config.stages > 1 else None
    ticks = ticks_of(job, config, material)
    when = {round(ticks * (number + 1) / EVALUATIONS) for number in range(EVALUATIONS - QUARTER, EVALUATIONS)}
    remedies = {name.removeprefix(REMEDY): value for name, value in job.settings.items() if name.startswith(REMEDY)}
    for tick, stages in run(config, material, ticks, probe, remedies):
        if tick + 1 in when:
            scores.append(evaluate(config, stages, shown, len(material.train.classes)))
    found = {"score": mean(scores), "ticks": ticks, "seconds": round(time.monotonic() - start, 1)}
    told = {"row": job.row, "contender": job.contender, "seed": job.seed, "settings": job.settings}
    return {"key": job.key, **told, **found, **(probe.means() if probe else {})}


def config_of(job: Job) -> "Config":
    """The run file's settings, as the product reads them."""
    from common.config import apply, parse

    depth = CONTENDERS[job.contender]
    tree: dict[str, Any] = {
        "model": "vgg8",
        "model_args": {"width": 16},
        "stages": depth,
        "split": SPLITS[depth],
        "epochs": job.epochs,
        "seed": job.seed,
        "threads": 1,
        "device": "cpu",
        "data": {
            "train": str(job.clips),
            "val": str(job.clips),
            "train_include": "*_s0[1357]_*",
            "val_include": "*_s09_*",
            "slots": 64,
            "size": 32,
            "resize": 36,
            "channels": 1,
            "threads": 1,
        },
        "optimiser": {"schedule": "cosine", "warmup": 50, "final": 0.02},
    }
    for name, value in job.settings.items():
        if not name.startswith(REMEDY):
            apply(f"{name}={json.dumps(value)}", tree)
    return parse(tree, "study.py")


def ticks_of(job: Job, config: "Config", material: "Material") -> int:
    """As many as with every frame of every clip, so that all trainings of a study update as often."""
    from coordinator.material import Material

    whole = {name: value for name, value in job.settings.items() if name not in ("data.stride", "data.window")}
    if whole == job.settings:
        return material.planned
    plain = replace(job, settings=whole)
    return Material(config_of(plain), lambda text: None, lambda: None).planned


def run(
    config: "Config", material: "Material", ticks: int, probe: "Probe | None", remedies: Settings
) -> Iterator[tuple[int, list["Stage"]]]:
    """The reference, tick by tick."""
    from benchmarks.remedies import apply
    from common.models import build, part
    from common.reference import Reference
    from common.stage import Stage
    from coordinator.course import Batch

    assert config.split is not None
    model = build(config, len(material.train.classes))
    stages = [Stage(part(model, config.split, index), index, config, ticks) for index in range(config.stages)]
    staggered = remedies.pop("staggered", False)
    apply(stages, remedies)
    reference = Reference(stages, config.frame_shape)
    batch, stream = Batch(config.frame_shape), material.open_training(places_of(config) if staggered else None)
    every = max(1, ticks // PROBES)
    try:
        for tick in range(ticks):
            assert stream.fill(batch.frames, batch.clips, batch.labels)
            packet = packet_of(config, batch, tick)
            full = 2 * config.stages <= tick < ticks - 2 * config.stages  # every stage updates at every tick
            if probe and full and tick % every == every // 2:
                probe.expect(stages, packet)
            elif probe:
                probe.smoothness_after(packet)
            reference.tick(packet)
            yield tick, stages
    finally:
        stream.close()


def places_of(config: "Config") -> list[tuple[int, int]]:
    """Every slot begins elsewhere in its first window, so that equal windows do not end at once."""
    assert config.data.window is not None
    return [(slot, slot % config.data.window) for slot in range(config.data.slots)]


def packet_of(config: "Config", batch: "Batch", tick: int) -> "Packet":
    """A frame batch as stage 0 gets it."""
    import torch

    from common.packet import Packet, normalise

    packet = Packet(config.frame_shape)
    packet.label(tick - 1, tick)
    packet.clips[:], packet.labels[:] = batch.clips, batch.labels
    normalise(packet.tensor, torch.from_numpy(batch.frames), config.data.mean, config.data.std)
    return packet


def evaluation_frames(config: "Config", material: "Material") -> Iterator["Packet"]:
    """Every validation clip once."""
    from coordinator.course import Batch

    stream, tick = material.open_evaluation(), 0
    batch = Batch(config.frame_shape)
    while stream.fill(batch.frames, batch.clips, batch.labels):
        yield packet_of(config, batch, tick)
        tick += 1
    stream.close()


def evaluate(config: "Config", stages: list["Stage"], shown: list["Packet"], classes: int) -> float:
    """Top-1 by the product's protocol: softmax averaged over a clip's frames."""
    import torch

    from common.packet import Packet

    sums: dict[int, torch.Tensor] = {}
    labels: dict[int, int] = {}
    for stage in stages:
        stage.evaluating(True)
    for packet in shown:
        held = packet
        for stage in stages:
            y = stage.infer(held)
            held = Packet(y.shape)
            held.tensor.copy_(y)
        for row, (clip, label) in enumerate(zip(packet.clips.tolist(), packet.labels.tolist(), strict=True)):
            if clip >= 0:
                sums[clip] = sums.get(clip, torch.zeros(classes)) + held.tensor[row].softmax(0)
                labels[clip] = label
    for stage in stages:
        stage.evaluating(False)
    return mean(float(int(sums[clip].argmax()) == labels[clip]) for clip in sums)


class Probe:
    """Pseudo-gradients against backpropagation's, as coordinator/probe.py does it: each stage's weights and gradient of
    the tick at which it holds a frame batch, and the exact gradient of that batch at those weights."""

    def __init__(self, config: "Config", classes: int) -> None:
        from common.config import Optimiser
        from common.models import build, part
        from common.stage import Stage

        assert config.split is not None
        model = build(config, classes)
        plain = config.model_copy(update={"optimiser": Optimiser()})
        self._own = [Stage(part(model, config.split, index), index, plain) for index in range(config.stages)]
        self._found: list[tuple[float, float]] = []
        self._changes: list[float] = []
        self._packet: Packet | None = None
        self._last: Packet | None = None
        self._pseudo: list[dict[str, torch.Tensor]] = []

    def expect(self, stages: list["Stage"], packet: "Packet") -> None:
        """A frame batch enters now: look at each stage when it holds it."""
        self._packet, self._pseudo, self._last = packet, [{} for _ in stages], packet
        for stage in stages:
            look = partial(self._look, stage, stage.update, [stage.index])
            stage.update = look  # type: ignore[method-assign]

    def _look(self, stage: "Stage", update: Callable[[], None], due: list[int]) -> None:
        """In place of an update: a stage holds the frame batch after as many ticks as there are stages below."""
        due[0] -= 1
        if due[0] < 0:
            own = self._own[stage.index].blocks
            own.load_state_dict(stage.blocks.state_dict())
            gradients = {name: value.grad for name, value in stage.blocks.named_parameters() if value.grad is not None}
            self._pseudo[stage.index] = {name: value.clone() for name, value in gradients.items()}
            stage.update = update  # type: ignore[method-assign]
            if stage.is_top:
                self._compare()
        update()

    def _compare(self) -> None:
        from common.objective import Target
        from common.reference import exact_gradients
        from coordinator.probe import compare

        assert self._packet is not None
        exact = exact_gradients(self._own, self._packet, Target(self._packet.tensor, self._packet.clips))
        for pseudo, gradients in list(zip(self._pseudo, exact, strict=True))[:-1]:
            row = compare(pseudo, gradients)
            if row["cosine"] is not None and row["norm_ratio"] is not None:
                self._found.append((row["cosine"], row["norm_ratio"]))

    def smoothness_after(self, packet: "Packet") -> None:
        """The change since the frame batch that was probed, of rows that stay in their clip."""
        last, self._last = self._last, None
        if last is not None and (same := last.clips == packet.clips).any():
            now, before = packet.tensor[same], last.tensor[same]
            self._changes.append(float(((now - before).flatten(1).norm(dim=1) / now.flatten(1).norm(dim=1)).mean()))

    def means(self) -> dict[str, float]:
        """Over probes, and stages but the top; nothing if the training was too short for one."""
        if not self._found or not self._changes:
            return {}
        return {
            "cosine": mean(cosine for cosine, _ in self._found),
            "norm_ratio": mean(ratio for _, ratio in self._found),
            "change": mean(self._changes),
        }


# ---- the studies


def tries(contender: str, rates: Sequence[float]) -> list[Settings]:
    """As many for each."""
    other = MOMENTUM if contender == "backprop" else EQUAL
    return [{"optimiser.lr": lr} | extra for lr in rates for extra in ({}, other)]


def tune(epochs: float, rates: Sequence[float]) -> Iterator[Job]:
    """Seed 0 alone."""
    for name in TUNED:
        for settings in tries(name, rates):
            yield Job("tune", describe(settings), name, 0, epochs, settings)


def claim(seeds: int, epochs: float, best: dict[str, Settings]) -> Iterator[Job]:
    """Other seeds than the tuning's."""
    for seed in range(1, seeds + 1):
        for name in TUNED:
            yield Job("claim", name, name, seed, epochs, best[name])


def tricks(seeds: int, epochs: float, best: dict[str, Settings]) -> Iterator[Job]:
    """Each on top of what is best; those that are not against delay for backpropagation too."""
    for seed in range(1, seeds + 1):
        for row, settings in (ANYBODYS | AGAINST_DELAY).items():
            for name in TUNED if row in ANYBODYS else TUNED[1:]:
                yield Job("tricks", row, name, seed, epochs, best[name] | settings)


def strides(seeds: int, epochs: float, best: dict[str, Settings]) -> Iterator[Job]:
    """A clip must outlast the mismatch for stage 0 to get any gradient of it: gating is on."""
    for seed in range(1, seeds + 1):
        for stride in (1, 2, 4, 8):
            for name in TUNED:
                settings = best[name] | ({"data.stride": stride} if stride > 1 else {})
                yield Job("strides", f"every {stride}" if stride > 1 else "every frame", name, seed, epochs, settings)


def windows(seeds: int, epochs: float, best: dict[str, Settings]) -> Iterator[Job]:
    """Random windows of the clips."""
    for seed in range(1, seeds + 1):
        for frames, staggered in ((8, False), (16, False), (16, True)):
            for name in TUNED:
                settings = {"data.window": frames} | ({f"{REMEDY}staggered": True} if staggered else {})
                row = f"{frames} frames" + (", slots staggered" if staggered else "")
                yield Job("windows", row, name, seed, epochs, best[name] | settings)


STUDIES = {study.__name__: study for study in (claim, tricks, strides, windows)}  # of what `tune` has found


def describe(settings: Settings) -> str:
    """For a table."""
    return ", ".join(f"{name.removeprefix('optimiser.')} = {value}" for name, value in settings.items())


def best_of(jobs: Sequence[Job], done: dict[str, Record]) -> dict[str, Settings]:
    """Each contender's best settings; of equals the first."""
    return {
        name: max(
            (job for job in jobs if job.contender == name), key=lambda job: float(done[job.key]["score"])
        ).settings
        for name in TUNED
    }


def main() -> None:
    """Train what has not been trained yet, and print the tables."""
    names = ["tune", *STUDIES]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("studies", nargs="*", metavar="STUDY", help=f"default: {' '.join(names)}")
    parser.add_argument("--json", action="store_true", help="print the figures as one last line")
    parser.add_argument("--seeds", type=count, default=3)
    parser.add_argument("--epochs", type=span, default=8.0, help="passes over the training clips")
    parser.add_argument("--rates", type=span, nargs="+", default=RATES, help="learning rates that are tried")
    parser.add_argument("--jobs", type=count, default=os.cpu_count() or 1, help="trainings at a time, a core each")
    parser.add_argument("--clips", type=Path, default=CLIPS, help="folder of aAA/aAA_sSS_eEE.mp4: action, person")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "study", help="folder of the results")
    arguments = parser.parse_args()
    if unknown := set(arguments.studies) - set(names):
        parser.error(f"there is no study {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    if not arguments.clips.is_dir():
        raise SystemExit(f"the clips of MSR-Action3D are not in {arguments.clips}: give --clips FOLDER")
    arguments.out.mkdir(parents=True, exist_ok=True)
    done = _read(arguments.out / "runs.jsonl")
    tuning = list(tune(arguments.epochs, arguments.rates))
    figures = {"tune": _study("tune", tuning, done, arguments)}
    best = best_of(tuning, done)
    for name in STUDIES:
        if name in (arguments.studies or STUDIES):
            jobs = list(STUDIES[name](arguments.seeds, arguments.epochs, best))
            figures[name] = _study(name, jobs, done, arguments)
    if arguments.json:
        print(json.dumps(figures))


def _study(name: str, jobs: list[Job], done: dict[str, Record], arguments: argparse.Namespace) -> Figures:
    new = [replace(job, clips=arguments.clips) for job in jobs if job.key not in done]
    _train_all(new, done, arguments)
    figures = _figures(jobs, done)
    _print(name, figures)
    return figures


def _read(file: Path) -> dict[str, Record]:
    lines = file.read_text().splitlines() if file.exists() else []
    return {record["key"]: record for record in map(json.loads, lines)}


def _train_all(jobs: list[Job], done: dict[str, Record], arguments: argparse.Namespace) -> None:
    """Each in a fresh process, so that none inherits another's threads or memory."""
    with ProcessPoolExecutor(arguments.jobs, get_context("spawn"), _watch_parent, max_tasks_per_child=1) as pool:
        for number, future in enumerate(as_completed([pool.submit(train, job) for job in jobs]), start=1):
            record = future.result()
            done[record["key"]] = record
            with (arguments.out / "runs.jsonl").open("a") as lines:
                lines.write(json.dumps(record) + "\n")
            told = f"{record['row']}, {record['contender']}, seed {record['seed']}: {record['score']:.3f}"
            print(f"--- {number} of {len(jobs)}: {told} in {record['seconds']:.0f} s", file=sys.stderr, flush=True)


def _watch_parent() -> None:
    """A training ends with what has started it, however that ends."""

    def watch() -> None:
        parent = parent_process()
        assert parent is not None
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _figures(jobs: list[Job], done: dict[str, Record]) -> Figures:
    """By row and contender: the mean over the seeds, the lowest and highest, and the mean of what was probed."""
    table: Figures = {}
    for job in jobs:
        own = [done[other.key] for other in jobs if (other.row, other.contender) == (job.row, job.contender)]
        scores = [record["score"] for record in own]
        cell = {"top1": mean(scores), "lowest": min(scores), "highest": max(scores)}
        for name in ("cosine", "norm_ratio", "change"):
            if all(name in record for record in own):
                cell[name] = mean(record[name] for record in own)
        table.setdefault(job.row, {})[job.contender] = {name: round(value, 4) for name, value in cell.items()}
    return table


def _print(study: str, table: Figures) -> None:
    print(f"\n{study}: top-1 of clips of a person never seen: mean (lowest … highest) | cosine, norm ratio, change")
    for row, cells in table.items():
        for contender, cell in cells.items():
            spread = f"{cell['top1']:.3f} ({cell['lowest']:.3f} … {cell['highest']:.3f})"
            probed = f"{cell['cosine']:.2f}  {cell['norm_ratio']:.2f}  {cell['change']:.2f}" if "cosine" in cell else ""
            print(f"{row:<44} {contender:<9} {spread:<24} {probed}")


if __name__ == "__main__":
    main()
