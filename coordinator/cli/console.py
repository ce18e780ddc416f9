"""The console that commands print tables to."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def console() -> "Console":
    """Standard output, as a rich console."""
    from rich.console import Console  # it takes long to import, and most commands do not need it

    return Console(highlight=False)
