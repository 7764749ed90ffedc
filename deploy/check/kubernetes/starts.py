"""Whether a process would start with these variables, and how long its stop may take: the product's settings say."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from taskmill.api.server import STOP_TIMEOUT
from taskmill.errors import ConfigError
from taskmill.runtime.service import GRACE
from taskmill.settings import Settings

MARGIN = 10.0


class Told(Settings):
    """Settings from what is given, and not from the environment of this process."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


def longest_stop(process: str, variables: Mapping[str, str]) -> float:
    """Seconds. ConfigError: why the process would not start."""
    try:
        settings = Told(**{name: value for name, value in variables.items() if value})  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    if settings.embedded or settings.redis_url is None or not settings.production:
        raise ConfigError("expected production, on MySQL and Redis")
    match process:
        case "api":
            settings.api_options()
            settings.auth_options()
            return STOP_TIMEOUT + MARGIN
        case "worker":
            return settings.worker_options().longest_stop
        case "scheduler":
            settings.upkeep_options()
            return GRACE
        case _:
            return 0.0
