"""The engine on every SQL engine."""

from tests.tasks.kit import world as world  # noqa: PLC0414
