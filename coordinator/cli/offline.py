"""The commands that need no running training: show the split and the schedule, export and use a trained model."""

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from common.config.run_file import apply, load, parse
from common.config.settings import Config
from common.errors import ConfigError, DataError
from common.rule.schedule import Schedule, schedule_of
from coordinator.cli.console import console

tools = typer.Typer()

Settings = Annotated[list[str] | None, typer.Option("--set", help="override: section.key=value; may be repeated")]
Best = Annotated[bool, typer.Option("--best", help="the run's model of the best evaluation, not the newest")]
Json = Annotated[bool, typer.Option("--json", help="print the results as JSON, in one last line of output")]


@tools.command()
def init(
    folder: Annotated[
        Path, typer.Argument(help="folder of videos, with a folder for each class if they have labels, or a list")
    ],
    out: Annotated[Path, typer.Option(help="run file to write")] = Path("run.toml"),
) -> None:
    """Look at a folder of videos and write a run file for them, with comments. An existing file is kept."""
    from coordinator.tools import first_run_file as first
    from coordinator.tools.folder_survey import survey

    first.refuse_existing(out)
    found, machine = survey(folder), first.Machine.here()
    chosen = first.suggest(found, machine)
    config = first.settings_of(first.text_of(found, chosen, machine))
    memory = first.memory_of(config, max(1, len(found.classes)))
    for note in found.notes:
        typer.echo(f"warning: {note}", err=True)
    first.write(out, first.text_of(found, chosen, machine, memory))
    print(f"found {first.description(found)}")
    print(f"{out} is written: look at it, then `sideways train {out}`")


@tools.command()
def partition(
    run_file: Annotated[Path, typer.Argument(help="run file (TOML), see examples/")],
    settings: Settings = None,
    stages: Annotated[str | None, typer.Option(help="numbers of stages to compare: 1..4 or 1,2,4")] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="compare all replicas × stages that make this number of processes")
    ] = None,
    classes: Annotated[int | None, typer.Option(min=1, help="number of classes; default: found in data.train")] = None,
    as_json: Json = False,
) -> None:
    """Time the model's blocks on this machine, and show the split with its predicted tick, efficiency and memory."""
    if stages and processes:
        raise ConfigError("give --stages or --processes, not both")
    config = load(run_file, settings)
    from coordinator.tools.partition import Arrangement, arrangements, compare, show, stage_counts

    if processes:
        found = arrangements(processes, config.data.slots)
    else:
        counts = stage_counts(stages) if stages else [config.stages]
        found = [Arrangement(config.replicas, count) for count in counts]
    comparison = compare(config, classes or _classes(config), found, lambda text: typer.echo(text, err=True))
    show(comparison, console())
    _print_json(as_json, comparison.tree())


@tools.command()
def ticks(
    stages: Annotated[int, typer.Option(min=1, max=256, help="number of stages (D)")],
    count: Annotated[
        int | None,
        typer.Option("--ticks", min=1, max=1000, help="number of ticks to draw; default: what fits in the terminal"),
    ] = None,
    skips: Annotated[str, typer.Option(help="skips between stages as in a run file: [[0, 2], [1, 3]]")] = "[]",
    edge_ticks: Annotated[
        str, typer.Option(help="ticks of the edges between neighbours as in a run file: 2, or [1, 2]")
    ] = "1",
    simulate: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="instead, simulate how fast the pipeline is and how much its stages idle, with compute=20 (ms), "
            "delay=50 (ms), …; may be repeated. docs/scaling.md",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Draw which frame (f) and which frame's gradient (g) each stage works on at each tick."""
    tree: dict[str, Any] = {"stages": stages, "ticks": 1, "data": {"train": "."}}
    apply(f"skips={skips}", tree)
    apply(f"network.edge_ticks={edge_ticks}", tree)
    config = parse(tree, "the command line")
    if simulate:
        from coordinator.cli import simulation

        links, pace = simulation.run(simulate, config)
        simulation.show(links, pace, console())
        _print_json(as_json, simulation.tree(links, pace))
        return
    if config.network.edge_ticks == "auto":
        raise ConfigError("--edge-ticks auto needs the times of a pipeline: add --simulate compute=20, delay=50, …")
    schedule = schedule_of(config)
    print(schedule.table(count) if count else _fitting(schedule, shutil.get_terminal_size().columns))
    print(
        f"stage 0 uses its first gradient at tick {schedule.first_gradient(0)}; "
        f"mismatch: frames between the one that a stage holds and the one that its gradient belongs to"
    )
    for source, target in config.skip_pairs:
        print(
            f"skip {source} → {target}: brings a frame {schedule.frames_newer(source, target)} newer than the one that "
            f"stage {target} holds; the gradient that comes back is of what stage {source} sent "
            f"{2 * schedule.ticks_between(source, target)} ticks before, and of the loss on a frame "
            f"{schedule.skip_mismatch(source, target)} older than the one that it holds"
        )
    _print_json(as_json, {"mismatch": [schedule.mismatch(stage) for stage in range(stages)]})


def _fitting(schedule: Schedule, width: int) -> str:
    """The table up to two ticks after the bottom stage's first gradient, or as many ticks as fit in `width` columns."""
    count = min(schedule.first_gradient(0) + 3, max(1, width // 8))
    while count > 1 and max(map(len, schedule.table(count).splitlines())) > width:
        count -= 1
    return schedule.table(count)


@tools.command()
def export(
    run: Annotated[Path, typer.Argument(help="run directory, such as runs/digits-20260101-120000")],
    out: Annotated[Path, typer.Argument(help="file to write: .safetensors (weights), .pt2 (torch.export) or .onnx")],
    kind: Annotated[
        Literal["safetensors", "pt2", "onnx"] | None, typer.Option("--format", help="default: the file's suffix")
    ] = None,
    best: Best = False,
) -> None:
    """Write the whole model to a file: its parameters, or a program, by torch.export or for ONNX runtimes."""
    from coordinator.tools.export import export as write

    print(f"{out}: {write(run, out, kind, best)} tensors")


@tools.command()
def predict(
    model: Annotated[Path, typer.Argument(help="run directory, or an exported .safetensors, .pt2 or .onnx file")],
    video: Annotated[Path | None, typer.Argument(help="video file, or folder of frames")] = None,
    source: Annotated[
        str | None, typer.Option(help="instead, a live source, such as rtsp://… or /dev/video0, until Ctrl-C")
    ] = None,
    source_format: Annotated[
        str | None, typer.Option(help="its FFmpeg format, such as v4l2; default: detected")
    ] = None,
    source_option: Annotated[
        list[str] | None, typer.Option(help="FFmpeg option, such as rtsp_transport=tcp; may be repeated")
    ] = None,
    seconds: Annotated[float | None, typer.Option(min=0, help="end a live source after so many seconds")] = None,
    table: Annotated[Path | None, typer.Option("--csv", help="CSV file to write the scores of every frame to")] = None,
    frame_files: Annotated[
        str | None, typer.Option(help="pattern of a frame's file name in a folder, such as img_*; default: all")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="print the results as JSON: a last line, or one line for each change if live")
    ] = False,
) -> None:
    """Classify a video: the best classes of the whole clip, and the best class of its frames over time; or numbers.

    Of a live source, the class of the newest frame, each time that it changes.
    """
    if (video is None) == (source is None):
        raise ConfigError("pass a video, or a live source by --source, but not both")
    of_source = {"--source-format": source_format, "--source-option": source_option, "--seconds": seconds}
    of_video = {"--csv": table, "--frame-files": frame_files}
    if unused := [name for name, value in (of_video if source else of_source).items() if value]:
        raise ConfigError(
            f"{', '.join(unused)} would have no effect {'with' if source else 'without'} --source: leave it out"
        )
    if source is not None:
        _watch(model, source, source_format, source_option or [], seconds, as_json)
        return
    from coordinator.tools.predict import predict_clips, show, tree
    from coordinator.tools.trained_model import open_model

    assert video is not None
    seen = predict_clips(open_model(model), video, table, frame_files or "*")
    show(seen, console())
    _print_json(as_json, tree(seen, video))


def _watch(
    model: Path, source: str, kind: str | None, options: list[str], seconds: float | None, as_json: bool
) -> None:
    from coordinator.tools.predict_live import changes, watch
    from coordinator.tools.trained_model import open_model

    if wrong := [option for option in options if "=" not in option]:
        raise ConfigError(f"--source-option {wrong[0]} has no value: write {wrong[0]}=VALUE")
    pairs = {name: value for name, _, value in (option.partition("=") for option in options)}
    with suppress(KeyboardInterrupt):
        for change in changes(watch(open_model(model), source, kind, pairs), seconds):
            print(json.dumps(change.tree()) if as_json else change, flush=True)


@tools.command(name="eval")
def evaluate(
    run: Annotated[Path, typer.Argument(help="run directory, or an exported .safetensors, .pt2 or .onnx file")],
    data: Annotated[str | None, typer.Argument(help="clips, as in data.val; default: the run's data.val")] = None,
    include: Annotated[str, typer.Option(help="pattern that a clip's path below the folder must match")] = "*",
    labels: Annotated[Path | None, typer.Option(help="labels of the clips, as in data.val_labels")] = None,
    out: Annotated[
        Path | None, typer.Option(help="folder for confusion.csv and confusion.png; default: the run's")
    ] = None,
    best: Best = False,
    as_json: Json = False,
) -> None:
    """Evaluate a model on clips: the figures of its task, such as top-1, top-5, and confusions."""
    from coordinator.run_directory import model_of
    from coordinator.tools import evaluate as assess
    from coordinator.tools.trained_model import open_model

    trained = open_model(model_of(run, best) if best else run)
    settings = assess.data_for(trained, run, data, include, labels)
    clips, evaluator = assess.find_clips(trained, settings), assess.evaluator_of(trained)
    scores, errors = assess.score(trained, clips, settings)
    for text in [*clips.warnings(0), *errors.reasons[:5]]:
        typer.echo(f"warning: {text}", err=True)
    evaluation = assess.evaluate(trained, evaluator, scores)
    if evaluation.clips == 0:
        raise DataError(f"no clip of {clips.root} could be decoded: {'; '.join(errors.reasons[:3])}")
    assess.show(evaluation, settings, trained, console())
    if evaluation.confusion is not None:
        for path in assess.write_confusion(evaluation, trained.classes, out or _folder(run)):
            print(path)
    _print_json(as_json, assess.figures(evaluation))
    if evaluation.problems:  # the other figures are there all the same
        raise ConfigError("\n".join(evaluation.problems))


def _folder(run: Path) -> Path:
    return run if run.is_dir() else run.parent


def _classes(config: Config) -> int:
    if not config.has_labels:
        return 1
    from coordinator.video.files.clips import collect

    try:
        return len(collect(config.data, "train", task=config.task).classes)
    except DataError as error:
        raise ConfigError(f"the number of classes is unknown: {error}. Without videos, pass --classes") from error


def _print_json(as_json: bool, figures: dict[str, Any]) -> None:
    if as_json:
        print(json.dumps(figures), flush=True)
