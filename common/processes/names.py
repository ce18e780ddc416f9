"""What the workers of a run are called. It imports nothing, so the launcher can use it before torch is imported."""


def worker_name(worker: int) -> str:
    """The RPC name of a stage worker, by its number among those of all replicas."""
    return f"worker{worker}"


def worker_text(worker: int, stages: int, replicas: int) -> str:
    """What messages call a stage worker, by its number among those of all replicas."""
    replica, stage = divmod(worker, stages)
    return f"stage {stage} of replica {replica}" if replicas > 1 else f"stage {stage}"
