"""Whether a server may evict our keys: with any other maxmemory-policy than noeviction it drops parts of the index, and
nobody is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from taskmill.errors import IndexUnavailable
from taskmill.runtime import logs

log = logs.get_logger(__name__)

NEEDED: Final = "noeviction"


class Evicting(IndexUnavailable):
    """The server may evict our keys, and is not used."""


class Policy:
    """What we think of a server's policy. `refuse`: one that evicts is no index; else it is only warned about."""

    def __init__(self, *, refuse: bool) -> None:
        self._refuse = refuse
        self._told: str | None = None

    def judge(self, memory: Mapping[str, Any]) -> None:
        """`memory`: that section of INFO. Evicting when it is refused; each change is logged once."""
        policy, wrong = memory.get("maxmemory_policy"), complaint(memory)
        if policy != self._told:
            self._told = policy
            if wrong is not None:
                (log.error if self._refuse else log.warning)("index.evicting", policy=policy, needed=NEEDED)
        if wrong is not None and self._refuse:
            raise Evicting(wrong)


def complaint(memory: Mapping[str, Any]) -> str | None:
    """What is wrong, in words that name no host; None when nothing is, or when the server does not say."""
    policy = memory.get("maxmemory_policy")
    if policy in (None, NEEDED):
        return None
    return f"the server's maxmemory-policy is {policy}: it may drop parts of the index. Set it to {NEEDED}"
