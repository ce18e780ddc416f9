"""Progress reports."""

from typing import Any

from common.messages.stage_report import Progress


def progress(**fields: Any) -> Progress:
    """A report of stage 0, tick 0, with these fields."""
    counts = dict.fromkeys(("attempt", "stage", "dropped", "tick", "rows", "gated", "peak_memory_bytes"), 0)
    counts |= dict.fromkeys(("bytes_forward", "bytes_backward"), 0)
    seconds = [f"{name}_seconds" for name in ("compute", "receive_wait", "send_wait", "data_wait")]
    rest = {"ticks": 1, "seconds": 0.1, "gradient_norm": None, "rate": 1e-3}
    return Progress(**{**counts, **dict.fromkeys(seconds, 0.0), **rest, **fields})
