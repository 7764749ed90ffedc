"""What a worker is told."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """Seconds, unless said otherwise."""

    app: str = ""
    """`module:attribute` of the user's Taskmill."""
    concurrency: int = 5
    """Tasks at a time."""
    processes: int = 1
    """Runners that share them. 0 runs handlers in the supervisor itself: for tests only."""
    queues: tuple[str, ...] = ("default",)
    lease: float = 30.0
    """Without a renewal, another worker may have the task after this. Renewed every quarter of it, and given up at 0.8 of it."""
    drain: float = 25.0
    """How long a stop waits for handlers."""
    timeout: float = 3600.0
    """One run, when its handler says nothing else."""
    name: str = field(default_factory=socket.gethostname)
    log_format: Literal["auto", "console", "json"] = "auto"
    log_level: str = "INFO"
    """Both of the runners' own logs, and of `logging` in the user's code."""
    start_timeout: float = 60.0
    """Import and startup hooks of the app."""
    stop_timeout: float = 5.0
    """Shutdown hooks of the app."""
    grace: float = 1.0
    """From asking a handler to end, by cancelling it or by SIGTERM, to taking it as stuck, or SIGKILL."""

    def __post_init__(self) -> None:
        if self.concurrency < 1 or self.processes < 0:
            raise ValueError("a worker has at least one slot, and no negative number of processes")

    @property
    def longest_stop(self) -> float:
        """Seconds after which a stop is over, even when the source answers nothing and no handler ends."""
        return self.drain + 3 * self.lease + self.grace + 2 * self.stop_timeout + 20.0
