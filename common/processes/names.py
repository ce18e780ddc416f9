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
