"""When a training compares its gradients with exact ones (probe.every)."""

from coordinator.run.setup.prepared import Prepared
from coordinator.video.targets import Step

_LAST = 30.0  # seconds


class Probing:
    """The probes of a run; without probe.every it does nothing."""

    def __init__(self, run: Prepared) -> None:
        self._run, self._probe = run, run.probe

    def poll(self, step: Step | None, last: int) -> None:
        """Before the run's present tick, whose frames are `step`, in a phase that ends with tick `last`."""
        if self._probe is not None and step is not None:
            self._probe.ask_before(self._run.state.tick, last)
            self._probe.take(self._run.state.tick, step)
            self._report()

    def finish(self) -> None:
        """Wait for the last probe, unless the run is stopped."""
        if self._probe is not None and not self._run.state.ending:
            self._probe.finish(_LAST, self._run.pipeline.poll)
            self._report()

    def _report(self) -> None:
        found = self._probe.result() if self._probe is not None else None
        if found is not None:
            self._run.presence.broadcast.probed(found)
