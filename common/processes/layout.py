"""How the stages of a run are spread over its processes. It does not import torch, which takes the launcher seconds."""

from dataclasses import dataclass

from common.processes.names import reader_name, reader_text


def workers_for(stages: int, each: int) -> int:
    """How many workers hold `stages` stages, if each holds `each` of them; the last one may hold fewer."""
    return -(-stages // each)


def stages_each(stages: int, workers: int) -> int:
    """How many of `stages` stages each of `workers` workers holds; the last one may hold fewer."""
    return -(-stages // workers)


@dataclass(frozen=True)
class Layout:
    """The processes of a run, by rank: the coordinator, the stage workers of each replica in turn, the readers.

    Attributes:
        stages: number of stages of a replica.
        replicas: number of copies of every stage.
        processes: number of stage workers of a replica: one for each stage unless given, or fewer, which hold several.
        readers: number of readers, of all replicas.
    """

    stages: int
    replicas: int = 1
    processes: int = 0
    readers: int = 0

    def __post_init__(self) -> None:
        if not self.processes:
            object.__setattr__(self, "processes", self.stages)

    @property
    def names(self) -> list[str]:
        """What tools such as ps call the processes: the workers after their first stage, over all replicas."""
        firsts = [
            replica * self.stages + own * self._each
            for replica in range(self.replicas)
            for own in range(self.processes)
        ]
        return ["coordinator", *(f"stage{first}" for first in firsts), *map(reader_name, range(self.readers))]

    def text(self, rank: int) -> str:
        """What messages call a process."""
        if rank == 0:
            return "the coordinator"
        number = rank - 1  # among the workers of all replicas, which the readers follow
        if number >= self.replicas * self.processes:
            return reader_text(number - self.replicas * self.processes)
        replica, own = divmod(number, self.processes)
        first, last = own * self._each, min((own + 1) * self._each, self.stages) - 1
        name = f"stage {first}" if first == last else f"stages {first} to {last}"
        return f"{name} of replica {replica}" if self.replicas > 1 else name

    @property
    def _each(self) -> int:
        """Stages of a worker; the last one may have fewer."""
        return stages_each(self.stages, self.processes)
