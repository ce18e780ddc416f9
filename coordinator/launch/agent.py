"""`python -m coordinator.launch.agent`: torchrun, with its options, for a member of a deployed run.

It ends with the exit code of the process that failed, which has said why, and not with a traceback. A coordinator that
fails for good ends it by SIGTERM, as it would be started again else, and leaves its exit code in a file. The torchruns
of the other members then find that the rendezvous is gone.
"""

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from common.processes.interpreter import quiet_torch
from common.processes.output import print_error

_CODE = "SIDEWAYS_EXIT_CODE"  # the file's name, for the processes that torchrun starts


def end_agent(code: int) -> None:
    """End the torchrun that has started this process, with an exit code."""
    if file := os.environ.get(_CODE):  # else it is a plain torchrun
        with suppress(OSError):
            Path(file).write_text(str(code))
    os.kill(os.getppid(), signal.SIGTERM)


def main() -> None:
    """Run torchrun."""
    quiet_torch()
    with TemporaryDirectory(prefix="sideways-") as folder:
        file = Path(folder, "code")
        os.environ[_CODE] = str(file)
        raise SystemExit(_run(file))


def _run(file: Path) -> int:
    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.run import main as torchrun

    try:
        torchrun(sys.argv[1:])
    except SignalException as error:
        with suppress(OSError, ValueError):  # there is none, or it could not be written
            return int(file.read_text())
        return 128 + int(error.sigval)
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        if failure.exitcode > 0:
            return int(failure.exitcode)
        print_error(f"process {failure.pid} was killed by {signal.Signals(-failure.exitcode).name}")
        return 128 - int(failure.exitcode)
    except (RendezvousError, DistError) as error:
        print_error(f"the coordinator's member cannot be reached, so this one ends: see its log ({error})")
        return 1
    return 0


if __name__ == "__main__":
    main()
