"""The benchmarks run and print the expected JSON as their last line. The measured values are not tested."""

import json
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from benchmarks.contenders import Case
from benchmarks.peers import _figures
from tests.support.processes import environment
from tests.support.videos import write_clip

ROOT = Path(__file__).parent.parent.parent


def last_line(script: str, *arguments: str | Path, timeout: float = 120) -> Any:
    """Run a benchmark. Returns its --json line."""
    command = [sys.executable, f"benchmarks/{script}.py", "--json", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, env=environment())
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_ratio_is_the_median_over_rounds_and_above_one_where_sideways_is_faster() -> None:
    ours = {"kind": "sideways", "parts": 0, "rates": [10.0, 40.0, 30.0], "efficiencies": [0.9, 0.5, 0.7]}
    ours["imbalances"] = [1.1, 1.3, 1.2]
    plain = {"kind": "bp_1core", "parts": 0, "rates": [5.0, 10.0, 10.0]}
    pipes = [{"kind": "gpipe", "parts": parts, "rates": [10.0 * parts] * 3} for parts in (1, 2)]
    figures = _figures({"results": [ours, plain, *pipes], "update_ms": {}})
    assert figures["vs_bp_1core"] == 3.0  # the median of 2, 4 and 3
    assert figures["vs_gpipe"] == {"1": 3.0, "2": 1.5}
    assert figures["vs_ddp"] is None
    assert (figures["efficiency"], figures["imbalance"]) == (0.7, 1.2)
    assert Case.of("vit_b_16_224_b8") == Case("vit_b_16", 224, 8)
    assert Case.of("vgg8_64") is None


@pytest.mark.long
@pytest.mark.timeout(320)
def test_replicas_prints_a_table_of_arrangements() -> None:
    small = ["--case", "vgg8_16_b2", "--rounds", "1", "--seconds", "0.05"]
    found = last_line("replicas", "--table", "2", *small, timeout=300)
    assert (found["processes"], found["rows"].keys()) == (2, {"2x1": 0, "1x2": 0}.keys())
    for row in found["rows"].values():
        assert row["vs_predicted"] == pytest.approx(row["frames_per_second"] / row["predicted"], abs=1e-3)
    assert found["ddp_frames_per_second"] > 0
    assert set(found["fastest"].values()) <= found["rows"].keys()


def test_a_table_of_arrangements_names_the_fastest() -> None:
    from benchmarks.replicas import _summary

    rows = {"2x1": (100.0, 120.0), "1x2": (130.0, 110.0)}
    figures = {
        name: {"frames_per_second": own, "predicted": predicted, "ddp_frames_per_second": 100.0, "vs_ddp": own / 100}
        for name, (own, predicted) in rows.items()
    }
    found = _summary("vgg8_64_b8", 2, figures)
    assert found["fastest"] == {"measured": "1x2", "predicted": "2x1"}
    assert {name: row["vs_predicted"] for name, row in found["rows"].items()} == {"2x1": 0.833, "1x2": 1.182}
    assert found["ddp_frames_per_second"] == 100.0


def test_scale_prints_tick_and_cpu_times() -> None:
    figures = last_line("scale", "--stages", "2", "--sleep", "4", "--ticks", "10", "--rounds", "1")
    assert figures.keys() == {"tick_ms", "cpu_ms", "busy"}
    assert figures["tick_ms"].keys() == figures["cpu_ms"].keys() == figures["busy"].keys() == {"2"}
    assert figures["tick_ms"]["2"] >= 4
    assert figures["cpu_ms"]["2"] > 0


@pytest.mark.long
def test_feed_prints_rates() -> None:
    figures = last_line("feed", "--sizes", "16", "--slots", "2", "--rounds", "1")
    assert figures.keys() == {"16"}
    assert figures["16"].keys() == {"shared", "copied", "zmq"}
    assert min(figures["16"].values()) > 0


@pytest.mark.long
def test_readers_prints_rates() -> None:
    options = "--readers", "0", "1", "2", "--replicas", "2", "--slots", "4", "--sizes", "16", "--seconds", "0.1"
    figures = last_line("readers", *options, "--rounds", "1", timeout=300)
    assert figures.keys() == {"16"}
    assert {mode: rates.keys() for mode, rates in figures["16"].items()} == dict.fromkeys(
        ("shared", "zmq"), {"0": 0, "1": 0, "2": 0}.keys()
    )
    assert min(rate for rates in figures["16"].values() for rate in rates.values()) > 0


@pytest.mark.long
def test_gpu_prints_figures_and_agrees_with_the_reference() -> None:
    small = ["--device", "cpu", "--cases", "vgg8_16_b2", "--stages", "2", "--rounds", "1", "--seconds", "0.05"]
    figures = last_line("gpu", *small)["vgg8_16_b2"]["2"]
    assert figures["contenders"].keys() == {"backprop", "streams", "partime", "workers"}
    assert figures["contenders"]["backprop"]["vs backprop"] == 1
    assert min(row["frames_per_second"] for row in figures["contenders"].values()) > 0
    assert figures["differences"] == {"streams": {"cpu": 0, "same device": 0}}


@pytest.mark.long
@pytest.mark.timeout(300)
def test_the_gpu_drill_runs_on_the_cpu_what_can_run_there(tmp_path: Path) -> None:
    steps = ["smoke", "primitives", "exact", "memory", "profile"]
    command = [sys.executable, "-m", "benchmarks.drill", "--dry-run", "--out", str(tmp_path / "gpu.json"), "--steps"]
    done = subprocess.run([*command, *steps], cwd=ROOT, capture_output=True, text=True, timeout=280, env=environment())
    assert done.returncode == 0, done.stdout
    expected = {step: "skipped" if step == "primitives" else "ok" for step in steps}
    assert json.loads(done.stdout.splitlines()[-1]) == {"steps": expected}


@pytest.mark.long
@pytest.mark.timeout(600)
def test_peers_prints_ratios() -> None:
    cases = ("vgg8_16_b1", "vgg8_16_b2")
    figures = last_line("peers", "--cases", *cases, "--rounds", "1", "--seconds", "0.05", timeout=550)
    assert tuple(figures) == cases
    live, batch = figures.values()
    ratios = {"vs_bp_1core", "vs_bp_all_cores", "vs_1f1b", "vs_gpipe", "vs_copies", "vs_ddp", "efficiency", "imbalance"}
    assert batch.keys() == ratios
    assert live.keys() == ratios | {"update_ms"}
    assert list(batch["vs_gpipe"]) == list(batch["vs_1f1b"]) == ["2", "4", "8", "16"]
    assert list(live["vs_gpipe"]) == ["1", "2", "4", "8", "16"]
    assert 0 < batch["efficiency"] < 1
    assert min(batch["vs_1f1b"].values()) > 0
    assert live["vs_ddp"] is None
    bottom, top = live["update_ms"]["sideways"]
    assert bottom > top > 0  # a frame's update is a tick later at the bottom than at the top


@pytest.mark.long
@pytest.mark.timeout(300)
def test_learn_reuses_the_results_of_finished_runs(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    small = ["data.slots=3", "data.size=16", "data.channels=3", "model_args.width=4"]
    given = [part for setting in [*small, "1f1b:stages=3"] for part in ("--set", setting)]
    given += ["--data", "digits", "--digits", str(videos), "--epochs", "1", "--out", str(out)]
    first = last_line("learn", *given, "--seeds", "1", "--contenders", "sideways_d2")
    assert first["digits"]["sideways_d2"].keys() == {"top1", "lowest", "highest", "seconds", "frames_per_second"}
    both = last_line("learn", *given, "--seeds", "1", "--contenders", "sideways_d2", "1f1b")
    assert both["digits"]["sideways_d2"] == first["digits"]["sideways_d2"]  # reused, as even the seconds are equal
    records = [json.loads(line) for line in (out / "runs.jsonl").read_text().splitlines()]
    assert [record["contender"] for record in records] == ["sideways_d2", "1f1b"]
    assert "stages=3" in records[1]["settings"]
    assert (out / "digits.png").stat().st_size > 1000


@pytest.mark.long
@pytest.mark.timeout(500)
def test_study_runs_only_missing_trainings_and_probes_gradients(tmp_path: Path) -> None:
    for number, (action, person) in enumerate(product(("a01", "a02"), ("01", "03", "09"))):
        write_clip(tmp_path / "clips" / action / f"{action}_s{person}_e01.mp4", 40, seed=number)
    out = ["--clips", str(tmp_path / "clips"), "--out", str(tmp_path / "out"), "--epochs", "16", "--seeds", "1"]
    out += ["--rates", "0.01"]
    tuned = last_line("study", "tune", *out, timeout=250)
    assert {row: len(cells) for row, cells in tuned["tune"].items()} == {
        "lr = 0.01": 3, "lr = 0.01, args.betas = [0.9, 0.999]": 1, "lr = 0.01, lr_by_mismatch = False": 2
    }  # fmt: skip
    both = last_line("study", "windows", "--rows", "8 frames", "staggered", *out, timeout=250)
    assert both["tune"] == tuned["tune"]
    assert set(both) == {"tune", "windows"}
    staggered = both["windows"]["16 frames, slots staggered"]
    assert staggered.keys() == {"backprop", "D = 4", "D = 8"}
    assert staggered["D = 4"].keys() == {"top1", "lowest", "highest", "cosine", "norm_ratio", "change"}
    assert -1 <= staggered["D = 4"]["cosine"] <= 1
    records = (tmp_path / "out" / "runs.jsonl").read_text().splitlines()
    assert len(records) == len({json.loads(line)["key"] for line in records}) == 6 + 2 * 3


@pytest.mark.long
@pytest.mark.timeout(400)
def test_people_prints_the_accuracy_with_memory_skips_and_auxiliary_losses(tmp_path: Path) -> None:
    for number, (action, person) in enumerate(product(("a01", "a02"), ("01", "03", "05", "07", "09"))):
        write_clip(tmp_path / "clips" / action / f"{action}_s{person}_e01.mp4", 40, seed=number)
    out = ["--clips", str(tmp_path / "clips"), "--out", str(tmp_path / "out")]
    figures = last_line("people", "--quick", *out, timeout=380)
    both, all_rows = ["plain", "memory"], ["plain", "memory", "skips", "auxiliary"]
    assert {name: list(rows) for name, rows in figures.items()} == {"backprop": both, "D4": both, "D8": all_rows}
    assert all(0 <= score <= 1 for rows in figures.values() for score in rows.values())
    deepest = last_line("people", "--quick", "--contenders", "D8", "--rows", "skips", *out)
    assert deepest == {"D8": {"skips": figures["D8"]["skips"]}}  # from the record


@pytest.mark.long
def test_options_prints_ratios() -> None:
    small = ["--size", "16", "--slots", "2", "--rounds", "1", "--seconds", "0.05"]
    figures = last_line("options", *small, "--options", "loop", "channels_last", "bfloat16")
    assert figures.keys() == {"as it is", "loop", "channels_last", "bfloat16"}
    assert figures["as it is"] == 1
    assert min(figures.values()) > 0
