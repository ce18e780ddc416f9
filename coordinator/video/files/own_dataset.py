"""A data set of the user's own: `data.train = "mine.py:clips"`, a torch Dataset or anything that behaves like one.

map-style    len(dataset), dataset[n]      random access: clips are shuffled as files are
iterable     iter(dataset)                 the same items each time it is iterated over: played in their own order

Each process that reads it imports the file and makes a dataset of its own, so nothing of it is copied or shared.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from threading import RLock
from typing import Any

from common.errors import ConfigError, DataError, SidewaysError
from common.processes.user_errors import describe_error

_MOST = 1 << 20  # items of an iterable; with more it is taken for endless
_opening = RLock()
_OPEN = 64  # iterators kept: the slots of a process may be at as many places


@dataclass(frozen=True)
class Item:
    """An item of a dataset.

    Attributes:
        dataset: path/to/file.py:name.
        number: its index, or its place in the iteration.
        in_order: whether the dataset is iterable, so that its order is kept.
    """

    dataset: str
    number: int
    in_order: bool = False

    def __str__(self) -> str:
        return f"{self.dataset}[{self.number}]"


class OwnDataset:
    """A user's dataset. Thread-safe.

    Attributes:
        in_order: whether it can only be iterated over.
    """

    def __init__(self, reference: str, setting: str = "data.train") -> None:
        """Import the file, and call what it names unless that is a dataset itself.

        Raises:
            ConfigError: it cannot be imported or built, or is no dataset.
        """
        self._reference, self._lock = reference, RLock()
        self._dataset = _built(reference, setting)
        kind = type(self._dataset)
        by_number = all(callable(getattr(kind, name, None)) for name in ("__getitem__", "__len__"))
        # torch's IterableDataset inherits a __getitem__, which raises an exception
        self.in_order = not by_number or any(base.__name__ == "IterableDataset" for base in kind.__mro__)
        self._iterators: dict[int, Iterator[Any]] = {}  # by the number of the item that each gives next
        if self.in_order and not hasattr(kind, "__iter__"):
            raise ConfigError(
                f"{setting} = {reference!r} is a {kind.__name__}: a dataset has __len__ and __getitem__, or __iter__"
            )

    def __len__(self) -> int:
        """Number of items of a map-style dataset. Raises ConfigError."""
        try:
            return len(self._dataset)
        except Exception as error:
            raise ConfigError(f"len({self._reference}) fails: {describe_error(error)}") from error

    def __getitem__(self, number: int) -> Any:
        """An item.

        Raises:
            DataError: the user's code raises an exception, or the iteration ends before the item.
        """
        with self._lock:
            try:
                return self._reached(number) if self.in_order else self._dataset[number]
            except SidewaysError:
                raise
            except (Exception, SystemExit) as error:
                raise DataError(f"{self._reference}[{number}]: {describe_error(error)}") from error

    def optional(self, name: str) -> Any:
        """An attribute that the dataset may have; else None."""
        return getattr(self._dataset, name, None)

    def class_names(self) -> list[str] | None:
        """Those that the dataset states, as `classes` or as `datasets` of Hugging Face do."""
        features = self.optional("features")
        label = features.get("label") if isinstance(features, Mapping) else None
        names = self.optional("classes") or getattr(label, "names", None)
        return [str(name) for name in names] if isinstance(names, Sequence) and not isinstance(names, str) else None

    def stated(self, name: str) -> list[Any] | None:
        """A list that the dataset may have with a value for each item; else None. Raises ConfigError if it is wrong."""
        values = self.optional(name)
        if values is None or self.in_order or callable(values) or isinstance(values, str):  # a method of that name
            return None
        try:
            values = list(values)
        except Exception as error:
            raise ConfigError(f"{self._reference}.{name} is no list: {describe_error(error)}") from error
        if len(values) != len(self):
            raise ConfigError(f"{self._reference} has {len(self)} items, but {len(values)} {name}: give each item one")
        return values

    def _reached(self, number: int) -> Any:
        """The item of an iterable dataset: iterates on from the nearest place before it, or from the beginning."""
        if number >= _MOST:
            raise ConfigError(
                f"{self._reference} gives more than {_MOST} items: an iterable dataset must end; give one that is "
                f"longer __len__ and __getitem__"
            )
        place = max((place for place in self._iterators if place <= number), default=0)
        items = self._iterators.pop(place, None) or iter(self._dataset)
        found = list(islice(items, number - place, number - place + 1))
        if not found:
            raise Exhausted(f"{self._reference}: it ends before item {number}, but must give the same items each time")
        self._iterators[number + 1] = items
        if len(self._iterators) > _OPEN:
            del self._iterators[min(self._iterators)]
        return found[0]


class Exhausted(DataError):
    """An iterable dataset has no such item."""


def opened(reference: str) -> OwnDataset:
    """This process's dataset. Raises ConfigError."""
    with _opening:  # or several threads would make one each at the same time
        return _made(reference)


@lru_cache(maxsize=4)
def _made(reference: str) -> OwnDataset:
    return OwnDataset(reference)


def _built(reference: str, setting: str) -> Any:
    from common.models import user_code  # imports torch, which most processes that decode do without

    found = user_code.load_object(reference, setting)
    if not callable(found) or (not isinstance(found, type) and hasattr(found, "__getitem__")):
        return found
    try:
        with user_code.no_exit(f"{setting} = {reference!r}"):
            return found()
    except SidewaysError:
        raise
    except Exception as error:
        raise ConfigError(
            f"{setting} = {reference!r} cannot be called: {describe_error(error)}. It must take no arguments, "
            f"and return a dataset"
        ) from error
