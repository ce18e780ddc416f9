"""The limit of open files."""

import errno
import resource

from common.errors import SidewaysError


def allow_many_files(needed: int) -> None:
    """Raise the open-file limit of this process and its children to the hard limit.

    Raises:
        SidewaysError: the hard limit is below `needed`.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if most != resource.RLIM_INFINITY and most < needed:
        raise SidewaysError(
            f"only {most} files may be open at a time, and this run needs up to {needed}: raise the limit "
            f"(ulimit -n {needed}), or use fewer stages or slots"
        )


def too_many_files(error: BaseException) -> str:
    """A message for an EMFILE or ENFILE error; an empty string for any other error."""
    if getattr(error, "errno", None) not in (errno.EMFILE, errno.ENFILE):
        return ""
    return f"no more files can be opened ({error}): raise the limit (ulimit -n 4096)"
