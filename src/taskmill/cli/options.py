"""Options that many commands have. They are taken as text, and checked where they are used: one rule, one message."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

from cyclopts import Parameter
from rich.console import Console

Text = Annotated[str | None, Parameter(negative="")]
Free = Annotated[str | None, Parameter(negative="", allow_leading_hyphen=True)]
"""May begin with a hyphen, or be one."""
Flag = Annotated[bool, Parameter(negative="", show_default=False)]


ROLES: Final = ("ADMIN", "USER", "WORKER")


class Terminal(Console):
    """When its reader goes away, the caller decides how that ends."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


@Parameter(name="*")
@dataclass(frozen=True)
class Api:
    """Where a command asks, and how it answers."""

    api_url: Text = None
    """The API (TASKMILL_API_URL); http://localhost:PORT when neither is given."""
    api_key: Text = None
    """A key of it (TASKMILL_API_KEY). Others on this machine can read options: use the variable."""
    json: Flag = False
    """JSON, for programs."""


API: Final = Api()
