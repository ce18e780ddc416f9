"""The trainings of the studies have valid settings: all of them, hours before the last one begins."""

from argparse import Namespace
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from benchmarks import people
from benchmarks.training import DEPTHS, config_of


def test_every_training_of_the_people_is_valid() -> None:
    arguments = Namespace(folds=people.PEOPLE, seeds=1, epochs=24.0, clips=Path("clips"))
    rows: dict[str, Sequence[str]] = {
        name: people.ROWS if depth > 2 else people.ROWS[:2] for name, depth in DEPTHS.items()
    }
    jobs = chain(people.tries(list(DEPTHS), arguments), people.jobs_of(rows, people.TUNED, arguments))
    configs = [config_of(job) for job in jobs]
    assert {config.data.window for config in configs} == {16, None}
    assert {config.stages for config in configs} == set(DEPTHS.values())
