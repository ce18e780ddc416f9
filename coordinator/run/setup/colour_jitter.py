"""data.jitter = "auto": the first stage jitters colours if it can on a GPU, as decoders take milliseconds a frame."""

from common.config.settings import Config
from common.processes.membership import Membership


def with_jitter(config: Config, me: Membership) -> Config:
    """The run's configuration with what jitters colours; unchanged if that is given."""
    if config.data.jitter != "auto":
        return config
    on_gpus = config.device != "cpu" and me.workers_have_gpus
    by = "stages" if on_gpus and config.may_jitter_later else "decoders"
    return config.model_copy(update={"data": config.data.model_copy(update={"jitter": by})})
