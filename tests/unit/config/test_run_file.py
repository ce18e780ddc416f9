"""Reading and validating settings."""

from pathlib import Path

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from common.config.run_file import changed, load, parse
from common.config.settings import Config, Data
from common.errors import ConfigError

MINIMAL = {"ticks": 10, "data": {"train": "videos"}}


def test_the_defaults() -> None:
    config = parse(MINIMAL, "test")
    assert config.rule.boundary == "gate"
    assert config.rule.every == 1
    assert config.optimiser.name == "AdamW"


def test_overrides_reach_any_section(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(tomli_w.dumps(MINIMAL))
    overrides = ["data.slots=7", "rule.boundary=mix", "split=[1, 2]", "stages=2", "optimiser.args.weight_decay=0.5"]
    config = load(file, [*overrides, "data.train=a b/c"])
    assert (config.data.slots, config.rule.boundary, config.split) == (7, "mix", [1, 2])
    assert config.optimiser.args == {"weight_decay": 0.5}
    assert config.data.train == Path("a b/c")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stagse": 3}, ["unknown setting stagse", "Did you mean stages?"]),
        ({"data": {"train": "v", "slot": 3}}, ["unknown setting data.slot", "Did you mean data.slots?"]),
        (
            {"rule": {"boundary": "gates"}},
            ["rule.boundary = 'gates'", 'Expected: "gate" or "mix". rule.boundary: '],
        ),
        ({"class_weights": [-1.0]}, ['class_weights = [-1.0] is invalid. Expected: [number ≥ 0, …] or "balanced". ']),
        ({"network": {"edge_ticks": 0}}, ["edge_ticks = 0 is invalid. Expected: whole number, 1 to 256 or [whole "]),
        ({"rule": 3}, ["rule = 3 is invalid", "Expected: a section"]),
        ({"stages": 0}, ["stages = 0", "greater than or equal to 1"]),
        ({"data": {}}, ["data.train is missing"]),
        ({"data": {"train": "v", "slots": 4096, "size": 2048}}, ["51539607552 bytes", "network.max_message"]),
        ({"epochs": 3}, ["either ticks or epochs"]),
        ({"lr": 0.1}, ["unknown setting lr. Did you mean optimiser.lr?"]),
        ({"xyzzy": 1}, ["unknown setting xyzzy. Allowed here: task, "]),
        ({"split": [1, 2]}, ["split = [1, 2]", "4 stages"]),
        ({"network": {"deadline": 5}, "report": {"every": 6}}, ["report.every is longer than network.deadline"]),
        ({"epochs": float("inf"), "ticks": None}, ["epochs = inf", "finite"]),
        ({"data": {"train": "v", "size": 64, "resize": 32}}, ["data.resize = 32", "data.size = 64"]),
    ],
)
def test_a_wrong_setting_names_the_key_and_what_is_allowed(change: dict[str, object], message: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        parse({**MINIMAL, **change}, "run.toml")
    assert all(part in str(error.value) for part in ["run.toml", *message]), str(error.value)
    assert str(error.value).count("run.toml: ") == 1
    assert ("Did you mean" in str(error.value)) + ("Allowed here" in str(error.value)) <= 1


@pytest.mark.parametrize("override", ["stages", "=3", "stages.x=1"])
def test_a_malformed_override_is_an_error(tmp_path: Path, override: str) -> None:
    file = tmp_path / "run.toml"
    file.write_text(tomli_w.dumps({**MINIMAL, "stages": 2}))
    with pytest.raises(ConfigError, match="--set"):
        load(file, [override])


def test_a_missing_or_broken_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        load(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("stages = = 3")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load(tmp_path / "bad.toml")


@given(st.integers(1, 256), st.integers(1, 4096), st.integers(0, (1 << 31) - 1), st.sampled_from(["gate", "mix"]))
def test_a_resolved_configuration_reads_back_the_same(stages: int, slots: int, seed: int, boundary: str) -> None:
    tree = {"ticks": 5, "stages": stages, "seed": seed, "rule": {"boundary": boundary}}
    config = parse({**tree, "data": {"train": "v", "slots": slots}}, "test")
    dumped = config.model_dump(mode="json", exclude_none=True)
    assert Config.model_validate(dumped) == config


def test_a_split_for_another_number_of_stages_is_discarded(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('ticks = 1\nstages = 3\nsplit = [1, 2, 3]\n[data]\ntrain = "."\n')
    assert load(file).split == [1, 2, 3]
    assert load(file, ["stages=2"]).split is None
    assert load(file, ["stages=2", "split=[3,3]"]).split == [3, 3]
    with pytest.raises(ConfigError, match="must have one number of at least 1 for each of the 3 stages"):
        load(file, ["split=[6]"])


def test_an_overridden_length_replaces_the_other(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('epochs = 3\n[data]\ntrain = "."\n')
    longer = load(file, ["ticks=50"])
    assert (longer.ticks, longer.epochs) == (50, None)
    assert changed(file, {"ticks": 50}).epochs is None
    again = changed(longer, {"epochs": 2})
    assert (again.ticks, again.epochs) == (None, 2)
    with pytest.raises(ConfigError, match="either ticks or epochs"):
        load(file, ["ticks=50", "epochs=2"])


def test_changes_from_python(tmp_path: Path) -> None:
    """By name, by section.name, or a section's as a dictionary; None resets a setting that may be left out."""
    file = tmp_path / "run.toml"
    file.write_text(tomli_w.dumps({**MINIMAL, "stages": 2, "split": [1, 3], "data": {"train": "videos", "slots": 4}}))
    config = changed(file, {"stages": 3, "data": {"size": 32}, "optimiser.lr": 0.5, "ticks": None, "epochs": 2})
    assert (config.stages, config.split, config.epochs, config.optimiser.lr) == (3, None, 2, 0.5)
    assert (config.data.slots, config.data.size) == (4, 32)
    again = changed(config, {"model_args": {"width": 8}, "model_args.norm": "group"})
    assert again.model_args == {"width": 8, "norm": "group"}
    ticks = {"edge_ticks": [1, 4]}
    wide = changed(again, {"network": ticks})
    assert changed(wide, {"stages": 2}).network.edge_ticks == "auto"
    assert changed(wide, {"stages": 3, "network": ticks}).edge_ticks == (1, 4)
    assert changed(None, {"ticks": 10, "data": {"train": Path("videos")}}) == parse(MINIMAL, "test")
    with pytest.raises(ConfigError, match=r"settings: unknown setting data\.slot\. Did you mean data\.slots"):
        changed(None, {"data": {"slot": 1}})
    with pytest.raises(ConfigError, match=r"ticks\.x: ticks is a setting, not a section"):
        changed(config, {"ticks": 1, "ticks.x": 1})


def test_edge_ticks_for_another_number_of_stages_are_measured_again(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('ticks = 1\nstages = 3\n[data]\ntrain = "."\n[network]\nedge_ticks = [1, 4]\n')
    assert load(file).edge_ticks == (1, 4)
    assert load(file, ["stages=2"]).network.edge_ticks == "auto"
    assert load(file, ["stages=2", "network.edge_ticks=[3]"]).edge_ticks == (3,)


@pytest.mark.parametrize(
    ("ticks", "found", "to_top"), [(1, (), 2), ([1, 1], (), 2), ("auto", (), 2), (3, (3, 3), 6), ([2, 1], (2, 1), 3)]
)
def test_edge_ticks_are_known_once_they_differ_from_one(ticks: object, found: tuple[int, ...], to_top: int) -> None:
    config = parse({**MINIMAL, "stages": 3, "network": {"edge_ticks": ticks}}, "test")
    assert (config.edge_ticks, config.ticks_to_top) == (found, to_top)


def test_a_size_is_one_side_or_two() -> None:
    def data(size: object, **more: object) -> Data:
        return parse({"ticks": 1, "data": {"train": ".", "size": size, **more}}, "test").data

    assert (data(48).shape, data(48).short_side, data(48, resize=54).short_side) == ((48, 48), 48, 54)
    assert (data([48, 64]).shape, data([48, 64]).short_side) == ((48, 64), (48, 64))
    assert data([64, 48], resize=54).short_side == (72, 54)
    assert data([48, 48]).size == 48
    for wrong in (3, 4096, True, "64", [48], [48, 4096], [48, 64, 3]):
        with pytest.raises(ConfigError, match=r"must be the side of a square, or \[height, width\]"):
            data(wrong)
    with pytest.raises(ConfigError, match=r"data\.resize = 40 is smaller than"):
        data([64, 48], resize=40)


@pytest.mark.parametrize("source", ["clips/train", "s3://bucket/{000..009}.tar"])
def test_a_configuration_survives_json(source: str) -> None:
    """It passes between processes as JSON: a path remains one, and an address keeps its slashes."""
    config = Config.model_validate({"ticks": 1, "data": {"train": source}})
    again = Config.model_validate_json(config.model_dump_json())
    assert again == config
    assert again.data.train == (source if "://" in source else Path(source))
