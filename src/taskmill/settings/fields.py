"""How a setting is written down: its variable, its form, what is expected, what it is for."""

from __future__ import annotations

from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import AliasChoices, BeforeValidator, Field
from pydantic_settings import NoDecode

from taskmill.runtime import forms
from taskmill.runtime.secret import SECRET_MINIMUM

Lower = BeforeValidator(lambda value: value.strip().lower() if isinstance(value, str) else value)
Duration = Annotated[timedelta, BeforeValidator(forms.parse_duration)]
Origins = Annotated[tuple[str, ...], NoDecode, BeforeValidator(forms.parse_origins)]
Hosts = Annotated[tuple[str, ...], NoDecode, BeforeValidator(forms.parse_hosts)]
Networks = Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode, BeforeValidator(forms.parse_networks)]
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(forms.parse_names)]
DatabaseUrl = Annotated[str, BeforeValidator(forms.parse_database_url)]
RedisUrl = Annotated[str, BeforeValidator(forms.parse_redis_url)]
ApiUrl = Annotated[str, BeforeValidator(forms.parse_api_url)]
AppName = Annotated[str, BeforeValidator(forms.parse_app)]
Folder = Annotated[Path, BeforeValidator(forms.parse_path)]


def setting(name: str, default: Any, expects: str, about: str, *, secret: bool = False, **checks: Any) -> Any:
    """A field read from the variable `name`; `A|B` reads B when A is not set. A callable default is called."""
    how = {"default_factory": default} if callable(default) else {"default": default}
    return Field(
        **how,
        validation_alias=AliasChoices(*name.split("|")),
        description=about,
        repr=not secret,
        json_schema_extra={"expects": expects, "secret": secret},
        **checks,
    )


def seconds(name: str, default: float, low: float, high: float, about: str) -> Any:
    expects = f"seconds from {low:g} to {high:.0f}"
    return setting(name, default, expects, about, ge=low, le=high, allow_inf_nan=False)


def count(name: str, default: int, low: int, high: int, about: str) -> Any:
    return setting(name, default, f"a whole number from {low} to {high}", about, ge=low, le=high)


def text(name: str, default: Any, expects: str, pattern: str, about: str) -> Any:
    return setting(name, default, expects, about, pattern=f"^{pattern}$")


A_NAME: Final = "letters, digits and . _ : - (at most 64)"
AN_ADDRESS: Final = "an address to listen at, such as 127.0.0.1"
A_HOST: Final = "a host name or an address"
A_DATABASE: Final = "mysql://user:pass@host:port/db (special characters percent-encoded) or sqlite:///file"
A_REDIS: Final = "redis://host:port/db, rediss://…, unix:///path, redis+sentinel://host,host/service or redis+cluster://host"
AN_API: Final = "http://host:port or https://host, without a login"
A_KEY: Final = "an API key, as createApiKey shows it once, or an access token"
A_SECRET: Final = (
    f"at least {SECRET_MINIMUM} bytes of random text, such as the output of: openssl rand -base64 48"
)
