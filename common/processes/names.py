"""What the workers of a run are called. It imports nothing, so the launcher can use it before torch is imported."""


def worker_name(process: int) -> str:
    """The RPC name of a stage worker, by its number among those of all replicas."""
    return f"worker{process}"


def reader_name(reader: int) -> str:
    """The RPC name of a reader."""
    return f"reader{reader}"


def reader_text(reader: int) -> str:
    """What messages call a reader."""
    return f"reader {reader}"


def worker_text(number: int, stages: int, replicas: int) -> str:
    """What messages call a stage, by its number among those of all replicas."""
    replica, stage = divmod(number, stages)
    return f"stage {stage} of replica {replica}" if replicas > 1 else f"stage {stage}"


def process_names(stages: int, replicas: int, processes: int, readers: int = 0) -> list[str]:
    """What tools such as ps call the processes of a run, by rank: workers after their first stage, over all replicas.

    `stages`, `processes`: of a replica.
    """
    each = -(-stages // processes)
    firsts = [replica * stages + own * each for replica in range(replicas) for own in range(processes)]
    return ["coordinator", *(f"stage{first}" for first in firsts), *map(reader_name, range(readers))]


def process_text(process: int, stages: int, replicas: int, processes: int) -> str:
    """What messages call a stage worker, which holds one stage or several, or a reader.

    Args:
        process: its number among the workers of all replicas, which the readers follow.
        stages, processes: of a replica.
    """
    if process >= replicas * processes:
        return reader_text(process - replicas * processes)
    replica, own = divmod(process, processes)
    each = -(-stages // processes)
    first, last = own * each, min((own + 1) * each, stages) - 1
    name = f"stage {first}" if first == last else f"stages {first} to {last}"
    return f"{name} of replica {replica}" if replicas > 1 else name
