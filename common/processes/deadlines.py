"""Who gives up first when something hangs: the process that waits for it directly, so that its error names the culprit.

network.deadline × 0.75    live sources: a silent one is reported before stage 0 misses its frames
                 × 1       frames, in stage 0; answers to the coordinator's calls
                 × 1.25    edges, replicas and the GPU: a slow reader is reported as such, not as a stuck stage
                 × 1.5     coordinator, readers and launcher, for a stage: its own wait, and error, come first
"""

_SOURCES, _EDGES, _STAGES = 0.75, 1.25, 1.5


def for_sources(deadline: float) -> float:
    """Seconds that all live sources may be silent. `deadline`: network.deadline."""
    return _SOURCES * deadline


def for_edges(deadline: float) -> float:
    """Seconds that a stage waits for its neighbours, its replicas and its GPU."""
    return _EDGES * deadline


def for_stages(deadline: float) -> float:
    """Seconds that other processes wait for a stage."""
    return _STAGES * deadline
