"""The settings: every variable, in one table, and how they are read."""

from __future__ import annotations

import difflib
import os
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AliasChoices, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from taskmill.errors import ConfigError
from taskmill.runtime import forms
from taskmill.runtime.secret import SECRET_MINIMUM
from taskmill.settings.fields import (
    A_DATABASE,
    A_HOST,
    A_KEY,
    A_NAME,
    A_REDIS,
    A_SECRET,
    AN_ADDRESS,
    AN_API,
    ApiUrl,
    AppName,
    DatabaseUrl,
    Duration,
    Folder,
    Hosts,
    Lower,
    Names,
    Networks,
    Origins,
    RedisUrl,
    count,
    seconds,
    setting,
    text,
)
from taskmill.settings.published import has_published_password

ENV_FILE: Final = ".env"
OURS: Final = "TASKMILL_"
# Not of this model: for the handlers, for the tests.
OTHER_NAMES: Final = frozenset({"TASKMILL_HANDLER_OPTIONS", "TASKMILL_TEST_NO_SKIPS"})


class Model(BaseSettings):
    """The settings themselves. `Settings.load()` reads them. Times are in seconds unless the name says otherwise."""

    model_config = SettingsConfigDict(
        case_sensitive=True, env_ignore_empty=True, extra="ignore", frozen=True, populate_by_name=True
    )

    # fmt: off
    # where
    environment: Annotated[Literal["development", "production", "test"], Lower] = setting("APP_ENV|NODE_ENV", "development", "development, production or test", "The kind of installation.")
    data: Folder = setting("TASKMILL_DATA", lambda: Path(".taskmill").absolute(), "the path of a folder", "Embedded data, media, the development secret. Not set: .taskmill in the working folder.")
    database: DatabaseUrl | None = setting("DATABASE_URL", None, A_DATABASE, "The record. Not set: SQLite in the data folder.", secret=True)
    pool_size: int = count("TASKMILL_POOL_SIZE", 10, 1, 1000, "Connections to MySQL of a process, as many for reads as for writes.")
    redis: RedisUrl | None = setting("REDIS_URL", None, A_REDIS, "The index. Not set: REDIS_HOST and REDIS_PORT with MySQL, an embedded Valkey with SQLite.", secret=True)
    redis_host: str = text("REDIS_HOST", "localhost", A_HOST, forms.HOST, "Of the index, with MySQL.")
    redis_port: int = count("REDIS_PORT", 6379, 1, 65535, "Of the index, with MySQL.")
    index: Annotated[Literal["auto", "none"], Lower] = setting("TASKMILL_INDEX", "auto", "auto or none", "none: dispatch from SQL alone, without Redis or Valkey.")
    index_prefix: str = text("TASKMILL_INDEX_PREFIX", "taskmill", A_NAME, forms.NAME, "Begins every key: keeps installations on one Redis apart.")
    index_timeout: float = seconds("TASKMILL_INDEX_TIMEOUT", 1, 0.1, 60, "For one call of the index; a silent one costs its caller no more, then SQL goes on alone.")
    index_hold: float = seconds("TASKMILL_INDEX_HOLD", 10, 0.2, 600, "Until a reservation of a worker that died runs out.")
    # the API
    host: str | None = text("TASKMILL_HOST", None, AN_ADDRESS, forms.HOST, "Where the API listens. Not set: 127.0.0.1; in production 0.0.0.0.")
    port: int = count("PORT", 3000, 1, 65535, "Of the API.")
    jwt_secret: str | None = setting("JWT_SECRET", None, A_SECRET, "Signs access tokens. Not set: one is made and kept in the data folder; production needs one.", secret=True)
    jwt_secret_previous: str | None = setting("JWT_SECRET_PREVIOUS", None, A_SECRET, "The JWT_SECRET of before: signs no more, and its tokens hold until they end.", secret=True)
    jwt_expiration: Duration = setting("JWT_EXPIRATION", timedelta(days=1), "a duration such as 30s, 15m, 12h or 1d", "How long an access token holds.")
    allowed_origins: Origins = setting("TASKMILL_ALLOWED_ORIGINS", (), "origins such as https://tasks.example.com, separated by commas", "Web pages of these origins may use the API, besides its own.")
    request_timeout: float = seconds("TASKMILL_REQUEST_TIMEOUT", 10, 0.1, 600, "For a GraphQL operation, but a subscription.")
    max_cost: int = count("TASKMILL_MAX_COST", 5000, 100, 10_000_000, "Of a GraphQL operation: a field costs 1, inside of a list as often as its limit says.")
    allowed_hosts: Hosts = setting("TASKMILL_ALLOWED_HOSTS", (), "host names such as tasks.example.com or *.example.com, separated by commas, or *", "Names that the API answers to, besides addresses and localhost. Not set: any; in development, where it listens on 127.0.0.1, localhost alone.")
    trusted_proxies: Networks = setting("TASKMILL_TRUSTED_PROXIES", (), "addresses or networks such as 10.0.0.0/8, separated by commas", "Proxies before the API: their X-Forwarded-For says who calls, their X-Forwarded-Proto whether by https.")
    bcrypt_rounds: int = count("TASKMILL_BCRYPT_ROUNDS", 12, 4, 16, "Cost of a password's hash; each step doubles it.")
    # from elsewhere: programs and workers that reach a Taskmill by its API alone
    api_url: ApiUrl | None = setting("TASKMILL_API_URL", None, AN_API, "The API of a Taskmill elsewhere: for remote workers, the client and the command line.", secret=True)
    api_key: str | None = setting("TASKMILL_API_KEY", None, A_KEY, "What it is asked with.", secret=True, pattern=r"^[!-~]{8,4096}$")
    service_user: str = text("TASKMILL_SERVICE_USER", "service", A_NAME, forms.NAME, "Whose tasks are those that programs submit straight to the record, and the schedules that an app declares.")
    # how often one may ask; 0 turns a limit off
    rate_user: int = count("TASKMILL_RATE_USER", 12_000, 0, 100_000_000, "Operations a minute of a signed-in user; 0: no limit, as for all of these.")
    rate_key: int = count("TASKMILL_RATE_KEY", 60_000, 0, 100_000_000, "Operations a minute of an API key.")
    rate_anonymous: int = count("TASKMILL_RATE_ANONYMOUS", 600, 0, 100_000_000, "Operations a minute of an address, by those who are not signed in.")
    rate_login: int = count("TASKMILL_RATE_LOGIN", 5, 0, 1000, "Failed logins of an account until it has to wait, longer with each: 4 s to 15 minutes.")
    rate_login_peer: int = count("TASKMILL_RATE_LOGIN_PEER", 30, 0, 100_000, "Failed logins from an address, an hour, until it has to wait: 4 s to 1 minute.")
    rate_register: int = count("TASKMILL_RATE_REGISTER", 10, 0, 100_000, "New users from an address, an hour, until it has to wait: 4 s to 1 minute.")
    # workers
    app: AppName | None = setting("TASKMILL_APP", None, "module:attribute", "The handlers. Not set: taskmill.handlers:app; production needs one.")
    concurrency: int = count("QUEUE_CONCURRENCY", 5, 1, 10_000, "Tasks at a time per worker.")
    processes: int = count("TASKMILL_PROCESSES", 1, 0, 256, "Runner processes per worker; 0 runs handlers in the worker itself.")
    queues: Names = setting("TASKMILL_QUEUES", ("default",), "names of letters, digits and . _ - (at most 64), separated by commas", "The queues of a worker.")
    worker_name: str = text("TASKMILL_WORKER_NAME", forms.host_name, A_NAME, forms.NAME, "Shown with its runs. Not set: the host's name.")
    lease: float = seconds("TASKMILL_LEASE", 30, 0.5, 3600, "A worker that does not renew for so long loses its tasks. The same everywhere.")
    worker_ttl: float = seconds("TASKMILL_WORKER_TTL", 60, 1, 3600, "A worker not seen for so long counts as gone.")
    drain: float = seconds("TASKMILL_DRAIN", 25, 0, 3600, "For handlers to finish after SIGTERM.")
    run_timeout: float = seconds("TASKMILL_RUN_TIMEOUT", 3600, 0.1, 2_592_000, "For a run whose handler names none.")
    max_retries: int = count("MAX_RETRY_ATTEMPTS", 3, 0, 1000, "For a task whose creator and handler name none.")
    backoff_base: float = seconds("TASKMILL_BACKOFF_BASE", 1, 0, 86400, "Longest wait before the first retry; doubles with each.")
    backoff_cap: float = seconds("TASKMILL_BACKOFF_CAP", 3600, 0, 2_592_000, "Longest wait before any retry.")
    # seen from outside
    metrics_host: str = text("TASKMILL_METRICS_HOST", "127.0.0.1", AN_ADDRESS, forms.HOST, "Where worker and scheduler serve /metrics, /live and /ready.")
    metrics_port: int = count("TASKMILL_METRICS_PORT", 0, 0, 65535, "Of these; 0 serves none.")
    log_format: Annotated[Literal["auto", "console", "json"], Lower] = setting("TASKMILL_LOG_FORMAT", "auto", "auto, console or json", "auto: console on a terminal, JSON otherwise.")
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Lower] = setting("TASKMILL_LOG_LEVEL", "info", "debug, info, warning or error", "The least important lines that are written.")
    no_color: str | None = setting("NO_COLOR", None, "any text", "Set to anything: logs without colours.")
    # upkeep
    rescue_every: float = seconds("TASKMILL_RESCUE", 3, 0.1, 600, "Between two looks for leases that ran out; at most a third of the lease.")
    verify_every: float = seconds("TASKMILL_VERIFY", 2, 0.1, 600, "Between two comparisons of the index with the record.")
    verify_grace: float = seconds("TASKMILL_VERIFY_GRACE", 2, 0.1, 600, "Younger rows may be on their way to the index.")
    report_every: float = seconds("TASKMILL_REPORT", 300, 1, 86400, "Between two log lines about the health of the queues.")
    leader_ttl: float = seconds("TASKMILL_LEADER_TTL", 15, 1, 600, "A scheduler not seen for so long leaves its place to another.")
    retain_hour: int = count("TASKMILL_RETAIN_HOUR", 2, 0, 23, "Hour of the day, in UTC, of the daily deletion.")
    keep_completed_days: int = count("TASKMILL_KEEP_COMPLETED_DAYS", 30, 1, 36_500, "Days until completed and cancelled tasks are deleted.")
    keep_failed_days: int = count("TASKMILL_KEEP_FAILED_DAYS", 0, 0, 36_500, "Days until failed tasks are deleted; 0 keeps them.")
    keep_fires_days: int = count("TASKMILL_KEEP_FIRES_DAYS", 30, 1, 36_500, "Days until the history of schedules is deleted.")
    schedules: int = count("TASKMILL_SCHEDULES_PER_USER", 1000, 0, 1_000_000, "Schedules that a user may have.")
    misfire_after: float = seconds("TASKMILL_MISFIRE_AFTER", 60, 1, 86400, "A schedule's fire that is later than this was missed; at least twice TASKMILL_LEADER_TTL.")
    misfire_grace: float = seconds("TASKMILL_MISFIRE_GRACE", 86400, 0, 2_592_000, "misfire ONCE makes up for a missed fire that is not older.")
    # the handlers that come with Taskmill
    media: Folder | None = setting("TASKMILL_MEDIA", None, "the path of a folder", "All that they read and write. Not set: media in the data folder.")
    smtp_host: str | None = text("TASKMILL_SMTP_HOST", None, A_HOST, forms.HOST, "EMAIL_SENDING fails when it is not set.")
    smtp_port: int = count("TASKMILL_SMTP_PORT", 587, 1, 65535, "Of that server.")
    smtp_security: Annotated[Literal["starttls", "tls", "none"], Lower] = setting("TASKMILL_SMTP_SECURITY", "starttls", "starttls, tls or none", "How the connection is encrypted.")
    smtp_from: str | None = text("TASKMILL_SMTP_FROM", None, "an e-mail address", r"[^@\s<>,;]+@[^@\s<>,;]+", "The sender.")
    smtp_user: str | None = setting("TASKMILL_SMTP_USER", None, "a user name", "Not set: no login.")
    smtp_password: str | None = setting("TASKMILL_SMTP_PASSWORD", None, "a password", "Of that user.", secret=True)
    webhook_allow_private: bool = setting("TASKMILL_WEBHOOK_ALLOW_PRIVATE", False, "true or false", "Lets WEBHOOK call private and loopback addresses, plain http and any port.")
    # fmt: on

    @model_validator(mode="after")
    def _together(self) -> Self:
        """What is right alone and wrong together. The text is shown: it names settings and holds no value."""
        if self.backoff_base > self.backoff_cap:
            raise ValueError("TASKMILL_BACKOFF_BASE: expected at most TASKMILL_BACKOFF_CAP")
        if self.index_timeout >= self.index_hold:
            raise ValueError("TASKMILL_INDEX_TIMEOUT: expected less than TASKMILL_INDEX_HOLD")
        if self.smtp_user is not None and self.smtp_password is None:
            raise ValueError("TASKMILL_SMTP_PASSWORD: expected, since TASKMILL_SMTP_USER is set")
        if self.production and self.database is not None and has_published_password(self.database):
            raise ValueError(
                "DATABASE_URL: expected a password of your own in production, such as the output of: openssl rand -hex 24; "
                "it is the one of the documentation"
            )
        return self

    @property
    def production(self) -> bool:
        return self.environment == "production"

    # -- reading -----------------------------------------------------------------------------------------

    @classmethod
    def load(cls, env_file: str | os.PathLike[str] | None = ENV_FILE, **flags: Any) -> Self:
        """From the environment and the file. `flags`: what the command line gave, by field; None is not given."""
        given = {field: value for field, value in flags.items() if value is not None}
        _env_file_names(env_file)
        try:
            return cls(_env_file=env_file, **given)  # type: ignore[call-arg]  # a keyword of pydantic-settings
        except ValidationError as error:
            raise ConfigError(_explain(error, given)) from None

    def warnings(self, env_file: str | os.PathLike[str] | None = ENV_FILE) -> list[str]:
        """What looks like a mistake and stops nothing: names that no setting has, a weak secret."""
        known = {name.removeprefix(OURS): name for names in setting_names().values() for name in names}
        in_file = set(_env_file_names(env_file))
        found = []
        for name in sorted({*os.environ, *in_file} - set(known.values()) - OTHER_NAMES):
            ours = name.upper().startswith(OURS)
            near = difflib.get_close_matches(
                name.upper().removeprefix(OURS), known, n=1, cutoff=0.7 if ours else 0.8
            )
            if ours or (near and name in in_file):
                found.append(
                    f"{name} is not a setting" + (f": did you mean {known[near[0]]}?" if near else "")
                )
        # Production refuses it, and says so itself.
        short = self.jwt_secret is not None and len(self.jwt_secret.encode()) < SECRET_MINIMUM
        if short and not self.production:
            found.append(f"JWT_SECRET is short: production needs {SECRET_MINIMUM} bytes")
        return found


def setting_names() -> dict[str, tuple[str, ...]]:
    """Field → the variables that it is read from, in their order."""
    return {field: _aliases(info.validation_alias) for field, info in Model.model_fields.items()}


def _aliases(alias: object) -> tuple[str, ...]:
    assert isinstance(alias, AliasChoices)
    return tuple(str(choice) for choice in alias.choices)


def _env_file_names(env_file: str | os.PathLike[str] | None) -> list[str]:
    if env_file is None:
        return []
    try:
        return forms.read_env_file(Path(env_file))
    except ValueError as error:
        raise ConfigError(f"{env_file}: {error}") from None


def _explain(error: ValidationError, flags: dict[str, Any]) -> str:
    """One line for the first wrong setting; others are only named."""
    lines = []
    for item in error.errors(include_url=False):
        if not item["loc"]:
            return str(item["ctx"]["error"])
        where = str(item["loc"][0])
        field = next(f for f, names in setting_names().items() if where == f or where in names)
        extra = Model.model_fields[field].json_schema_extra
        assert isinstance(extra, dict)
        names = setting_names()[field]
        name = flag_name(field) if field in flags else next((n for n in names if n in os.environ), names[0])
        shown = "" if extra["secret"] else f", got {_short(item['input'])}"
        lines.append((name, f"{name}: expected {extra['expects']}{shown}"))
    others = list(dict.fromkeys(name for name, _ in lines if name != lines[0][0]))
    return lines[0][1] + (f" (also wrong: {', '.join(others)})" if others else "")


def flag_name(field: str) -> str:
    """The option of the command line that gives a field."""
    return {"worker_name": "--name"}.get(field, f"--{field.replace('_', '-')}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
