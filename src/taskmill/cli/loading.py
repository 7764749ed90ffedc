"""The settings of a command, and where its logs go."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taskmill.settings import Settings


def service_settings(**flags: str | None) -> Settings:
    """Of a command that runs until it is stopped. `flags`: what its options say, by field."""
    from taskmill.runtime import logs
    from taskmill.settings import Settings

    settings = Settings.load(**flags)
    colors = False if settings.no_color else None
    logs.configure(settings.log_format, settings.log_level.upper(), colors=colors)
    for warning in settings.warnings():
        logs.get_logger(__name__).warning(warning)
    return settings


def tool_settings(**flags: str | None) -> Settings:
    """Of a command whose output is its result: logs go to standard error, from WARNING on."""
    from taskmill.runtime import logs
    from taskmill.settings import Settings

    settings = Settings.load(**flags)
    logs.configure(settings.log_format, "WARNING", stream=sys.stderr)
    return settings
