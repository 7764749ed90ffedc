"""Every setting of Taskmill: read from the environment and a `.env` file, checked, and handed to the layers.

Nothing else reads the environment, but for taskmill.handlers: a runner imports no settings, so its handlers get
their options through one variable (`handler_environment`). A variable of the environment wins over the same one in
`.env`; an empty one counts as not set. A wrong value is a ConfigError of one line that names the setting and what is
expected; a value that may hold a secret is never shown.
"""

from __future__ import annotations

import difflib
import hashlib
import os
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

from pydantic import AliasChoices, BeforeValidator, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from taskmill.errors import ConfigError
from taskmill.runtime import forms
from taskmill.runtime.secret import SECRET_MINIMUM, kept_secret

if TYPE_CHECKING:  # each process imports the layers that it runs, and no others
    from taskmill.api.options import ApiOptions, AuthOptions
    from taskmill.handlers.options import HandlerOptions
    from taskmill.index.connect import IndexOptions
    from taskmill.sql.engine import SqlOptions
    from taskmill.tasks.mill import TaskOptions
    from taskmill.upkeep.options import UpkeepOptions
    from taskmill.worker.options import WorkerOptions

ENV_FILE: Final = ".env"
SECRET_FILE: Final = "jwt-secret"  # noqa: S105 (a name)
DEVELOPMENT_APP: Final = "taskmill.handlers:app"

OURS: Final = "TASKMILL_"
# Not of this model: for the handlers, for `--reload`, for the tests.
OTHER_NAMES: Final = frozenset({"TASKMILL_HANDLER_OPTIONS", "TASKMILL_TEST_NO_SKIPS"})

Lower = BeforeValidator(lambda value: value.strip().lower() if isinstance(value, str) else value)
Duration = Annotated[timedelta, BeforeValidator(forms.parse_duration)]
Origins = Annotated[tuple[str, ...], NoDecode, BeforeValidator(forms.parse_origins)]
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(forms.parse_names)]
DatabaseUrl = Annotated[str, BeforeValidator(forms.parse_database_url)]
RedisUrl = Annotated[str, BeforeValidator(forms.parse_redis_url)]
AppName = Annotated[str, BeforeValidator(forms.parse_app)]
Folder = Annotated[Path, BeforeValidator(forms.parse_path)]


def _setting(
    name: str, default: Any, expects: str, about: str, *, secret: bool = False, **checks: Any
) -> Any:
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


def _seconds(name: str, default: float, low: float, high: float, about: str) -> Any:
    expects = f"seconds from {low:g} to {high:.0f}"
    return _setting(name, default, expects, about, ge=low, le=high, allow_inf_nan=False)


def _count(name: str, default: int, low: int, high: int, about: str) -> Any:
    return _setting(name, default, f"a whole number from {low} to {high}", about, ge=low, le=high)


def _text(name: str, default: Any, expects: str, pattern: str, about: str) -> Any:
    return _setting(name, default, expects, about, pattern=f"^{pattern}$")


_A_NAME: Final = "letters, digits and . _ : - (at most 64)"
_AN_ADDRESS: Final = "an address to listen at, such as 127.0.0.1"
_A_HOST: Final = "a host name or an address"
_A_DATABASE: Final = "mysql://user:pass@host:port/db (special characters percent-encoded) or sqlite:///file"
_A_REDIS: Final = "redis://host:port/db, rediss://…, unix:///path, redis+sentinel://host,host/service or redis+cluster://host"
_A_SECRET: Final = (
    f"at least {SECRET_MINIMUM} bytes of random text, such as the output of: openssl rand -base64 48"
)


class Settings(BaseSettings):
    """`Settings.load()` reads them. Times are in seconds unless the name says otherwise."""

    model_config = SettingsConfigDict(
        case_sensitive=True, env_ignore_empty=True, extra="ignore", frozen=True, populate_by_name=True
    )

    # fmt: off
    # where
    environment: Annotated[Literal["development", "production", "test"], Lower] = _setting("APP_ENV|NODE_ENV", "development", "development, production or test", "The kind of installation.")
    data: Folder = _setting("TASKMILL_DATA", lambda: Path(".taskmill").absolute(), "the path of a folder", "Embedded data, media, the development secret. Not set: .taskmill in the working folder.")
    database: DatabaseUrl | None = _setting("DATABASE_URL", None, _A_DATABASE, "The record. Not set: SQLite in the data folder.", secret=True)
    pool_size: int = _count("TASKMILL_POOL_SIZE", 10, 1, 1000, "Connections to MySQL of a process, as many for reads as for writes.")
    redis: RedisUrl | None = _setting("REDIS_URL", None, _A_REDIS, "The index. Not set: REDIS_HOST and REDIS_PORT with MySQL, an embedded Valkey with SQLite.", secret=True)
    redis_host: str = _text("REDIS_HOST", "localhost", _A_HOST, forms.HOST, "Of the index, with MySQL.")
    redis_port: int = _count("REDIS_PORT", 6379, 1, 65535, "Of the index, with MySQL.")
    index: Annotated[Literal["auto", "none"], Lower] = _setting("TASKMILL_INDEX", "auto", "auto or none", "none: dispatch from SQL alone, without Redis or Valkey.")
    index_prefix: str = _text("TASKMILL_INDEX_PREFIX", "taskmill", _A_NAME, forms.NAME, "Begins every key: keeps installations on one Redis apart.")
    index_timeout: float = _seconds("TASKMILL_INDEX_TIMEOUT", 2, 0.1, 60, "For one call of the index.")
    index_hold: float = _seconds("TASKMILL_INDEX_HOLD", 10, 0.2, 600, "Until a reservation of a worker that died runs out.")
    # the API
    host: str | None = _text("TASKMILL_HOST", None, _AN_ADDRESS, forms.HOST, "Where the API listens. Not set: 127.0.0.1; in production 0.0.0.0.")
    port: int = _count("PORT", 3000, 1, 65535, "Of the API.")
    jwt_secret: str | None = _setting("JWT_SECRET", None, _A_SECRET, "Signs access tokens. Not set: one is made and kept in the data folder; production needs one.", secret=True)
    jwt_expiration: Duration = _setting("JWT_EXPIRATION", timedelta(days=1), "a duration such as 30s, 15m, 12h or 1d", "How long an access token holds.")
    allowed_origins: Origins = _setting("TASKMILL_ALLOWED_ORIGINS", (), "origins such as https://tasks.example.com, separated by commas", "Web pages of these origins may use the API, besides its own.")
    bcrypt_rounds: int = _count("TASKMILL_BCRYPT_ROUNDS", 12, 4, 16, "Cost of a password's hash; each step doubles it.")
    # workers
    app: AppName | None = _setting("TASKMILL_APP", None, "module:attribute", "The handlers. Not set: taskmill.handlers:app; production needs one.")
    concurrency: int = _count("QUEUE_CONCURRENCY", 5, 1, 10_000, "Tasks at a time per worker.")
    processes: int = _count("TASKMILL_PROCESSES", 1, 0, 256, "Runner processes per worker; 0 runs handlers in the worker itself.")
    queues: Names = _setting("TASKMILL_QUEUES", ("default",), "names separated by commas", "The queues of a worker.")
    worker_name: str = _text("TASKMILL_WORKER_NAME", forms.host_name, _A_NAME, forms.NAME, "Shown with its runs. Not set: the host's name.")
    lease: float = _seconds("TASKMILL_LEASE", 30, 0.5, 3600, "A worker that does not renew for so long loses its tasks. The same everywhere.")
    worker_ttl: float = _seconds("TASKMILL_WORKER_TTL", 60, 1, 3600, "A worker not seen for so long counts as gone.")
    drain: float = _seconds("TASKMILL_DRAIN", 25, 0, 3600, "For handlers to finish after SIGTERM.")
    run_timeout: float = _seconds("TASKMILL_RUN_TIMEOUT", 3600, 0.1, 2_592_000, "For a run whose handler names none.")
    max_retries: int = _count("MAX_RETRY_ATTEMPTS", 3, 0, 1000, "For a task whose creator and handler name none.")
    backoff_base: float = _seconds("TASKMILL_BACKOFF_BASE", 1, 0, 86400, "Longest wait before the first retry; doubles with each.")
    backoff_cap: float = _seconds("TASKMILL_BACKOFF_CAP", 3600, 0, 2_592_000, "Longest wait before any retry.")
    # seen from outside
    metrics_host: str = _text("TASKMILL_METRICS_HOST", "127.0.0.1", _AN_ADDRESS, forms.HOST, "Where worker and scheduler serve /metrics, /live and /ready.")
    metrics_port: int = _count("TASKMILL_METRICS_PORT", 0, 0, 65535, "Of these; 0 serves none.")
    log_format: Annotated[Literal["auto", "console", "json"], Lower] = _setting("TASKMILL_LOG_FORMAT", "auto", "auto, console or json", "auto: console on a terminal, JSON otherwise.")
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Lower] = _setting("TASKMILL_LOG_LEVEL", "info", "debug, info, warning or error", "The least important lines that are written.")
    no_color: str | None = _setting("NO_COLOR", None, "any text", "Set to anything: logs without colours.")
    # upkeep
    rescue_every: float = _seconds("TASKMILL_RESCUE", 3, 0.1, 600, "Between two looks for leases that ran out; at most a third of the lease.")
    verify_every: float = _seconds("TASKMILL_VERIFY", 2, 0.1, 600, "Between two comparisons of the index with the record.")
    verify_grace: float = _seconds("TASKMILL_VERIFY_GRACE", 2, 0.1, 600, "Younger rows may be on their way to the index.")
    report_every: float = _seconds("TASKMILL_REPORT", 300, 1, 86400, "Between two log lines about the health of the queues.")
    leader_ttl: float = _seconds("TASKMILL_LEADER_TTL", 15, 1, 600, "A scheduler not seen for so long leaves its place to another.")
    retain_hour: int = _count("TASKMILL_RETAIN_HOUR", 2, 0, 23, "Hour of the day, in UTC, of the daily deletion.")
    keep_completed_days: int = _count("TASKMILL_KEEP_COMPLETED_DAYS", 30, 1, 36_500, "Days until completed and cancelled tasks are deleted.")
    keep_failed_days: int = _count("TASKMILL_KEEP_FAILED_DAYS", 0, 0, 36_500, "Days until failed tasks are deleted; 0 keeps them.")
    # the handlers that come with Taskmill
    media: Folder | None = _setting("TASKMILL_MEDIA", None, "the path of a folder", "All that they read and write. Not set: media in the data folder.")
    smtp_host: str | None = _text("TASKMILL_SMTP_HOST", None, _A_HOST, forms.HOST, "EMAIL_SENDING fails when it is not set.")
    smtp_port: int = _count("TASKMILL_SMTP_PORT", 587, 1, 65535, "Of that server.")
    smtp_security: Annotated[Literal["starttls", "tls", "none"], Lower] = _setting("TASKMILL_SMTP_SECURITY", "starttls", "starttls, tls or none", "How the connection is encrypted.")
    smtp_from: str | None = _text("TASKMILL_SMTP_FROM", None, "an e-mail address", r"[^@\s<>,;]+@[^@\s<>,;]+", "The sender.")
    smtp_user: str | None = _setting("TASKMILL_SMTP_USER", None, "a user name", "Not set: no login.")
    smtp_password: str | None = _setting("TASKMILL_SMTP_PASSWORD", None, "a password", "Of that user.", secret=True)
    webhook_allow_private: bool = _setting("TASKMILL_WEBHOOK_ALLOW_PRIVATE", False, "true or false", "Lets WEBHOOK call private and loopback addresses, plain http and any port.")
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
        return self

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

    # -- what follows from them --------------------------------------------------------------------------

    @property
    def production(self) -> bool:
        return self.environment == "production"

    @property
    def database_url(self) -> str:
        return self.database or f"sqlite:///{self.data / 'taskmill.db'}"

    @property
    def embedded(self) -> bool:
        """The record is a SQLite file: one process owns it."""
        return self.database_url.startswith("sqlite:")

    @property
    def redis_url(self) -> str | None:
        """Where the index is; None: an embedded Valkey is to be started, or there is to be none (`index`)."""
        if self.index == "none":
            return None
        if self.redis is not None or self.embedded:
            return self.redis
        host = f"[{self.redis_host}]" if ":" in self.redis_host else self.redis_host
        return f"redis://{host}:{self.redis_port}/0"

    @property
    def embedded_index(self) -> bool:
        """Whether an embedded Valkey is to be started, when there is a binary."""
        return self.index == "auto" and self.embedded and self.redis is None

    @property
    def api_host(self) -> str:
        return self.host or ("0.0.0.0" if self.production else "127.0.0.1")  # noqa: S104 (in a container)

    @property
    def media_folder(self) -> Path:
        return self.media or self.data / "media"

    @property
    def app_name(self) -> str:
        """`module:attribute` of the handlers. ConfigError in production when none was named."""
        if self.app is None and self.production:
            raise ConfigError("--app (or TASKMILL_APP): expected module:attribute, production has no default")
        return self.app or DEVELOPMENT_APP

    def data_folder(self) -> Path:
        """The data folder, made with mode 0700 when it is not there."""
        try:
            self.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise ConfigError(f"TASKMILL_DATA: expected a folder that can be made ({reason})") from None
        return self.data

    def secret(self) -> bytes:
        """The key of access tokens. ConfigError in production when it is missing or short; else one is made once."""
        if self.jwt_secret is not None:
            key = self.jwt_secret.encode()
            if self.production and len(key) < SECRET_MINIMUM:
                raise ConfigError(f"JWT_SECRET: expected {_A_SECRET}; it has {len(key)}")
            return key if len(key) >= SECRET_MINIMUM else hashlib.sha256(key).digest()
        if self.production:
            raise ConfigError(f"JWT_SECRET: expected {_A_SECRET}; it is not set")
        return kept_secret(self.data_folder() / SECRET_FILE)

    # -- the options of each layer -----------------------------------------------------------------------

    def sql_options(self) -> SqlOptions:
        from taskmill.sql.engine import SqlOptions

        return SqlOptions(url=self.database_url, pool_size=self.pool_size)

    def index_options(self, url: str) -> IndexOptions:
        """`url`: `redis_url`, or what the embedded Valkey answered."""
        from taskmill.index.connect import IndexOptions

        return IndexOptions(
            url=url, prefix=self.index_prefix, timeout=self.index_timeout, hold=self.index_hold
        )

    def task_options(self) -> TaskOptions:
        from taskmill.model.backoff import Backoff
        from taskmill.model.decide import Policy
        from taskmill.tasks.mill import TaskOptions

        policy = Policy(max_retries=self.max_retries, backoff=Backoff(self.backoff_base, self.backoff_cap))
        return TaskOptions(lease=self.lease, policy=policy, worker_ttl=self.worker_ttl)

    def upkeep_options(self) -> UpkeepOptions:
        from taskmill.upkeep.options import UpkeepOptions

        return UpkeepOptions(
            rescue=min(self.rescue_every, self.lease / 3),
            verify=self.verify_every,
            verify_grace=self.verify_grace,
            report=self.report_every,
            leader_ttl=self.leader_ttl,
            retain_hour=self.retain_hour,
            retain_completed_days=self.keep_completed_days,
            retain_failed_days=self.keep_failed_days or None,
        )

    def worker_options(self) -> WorkerOptions:
        """ConfigError in production without an app."""
        from taskmill.worker.options import WorkerOptions

        return WorkerOptions(
            app=self.app_name,
            concurrency=self.concurrency,
            processes=self.processes,
            queues=self.queues,
            lease=self.lease,
            drain=self.drain,
            timeout=self.run_timeout,
            name=self.worker_name,
            log_format=self.log_format,
            log_level=self.log_level.upper(),
        )

    def handler_options(self) -> HandlerOptions:
        """Of taskmill.handlers. Their `environment` is what a worker adds to its own before it starts runners."""
        from taskmill.handlers.options import HandlerOptions

        return HandlerOptions(
            media=self.media_folder,
            smtp_host=self.smtp_host,
            smtp_port=self.smtp_port,
            smtp_security=self.smtp_security,
            smtp_from=self.smtp_from,
            smtp_user=self.smtp_user,
            smtp_password=self.smtp_password,
            webhook_allow_private=self.webhook_allow_private,
        )

    def api_options(self) -> ApiOptions:
        from taskmill.api.options import ApiOptions

        return ApiOptions(
            host=self.api_host,
            port=self.port,
            development=not self.production,
            allowed_origins=self.allowed_origins,
        )

    def auth_options(self) -> AuthOptions:
        """ConfigError in production without a good secret; else it may make one (`secret`)."""
        from taskmill.api.options import AuthOptions

        return AuthOptions(
            secret=self.secret(),
            expiration=self.jwt_expiration,
            bcrypt_rounds=self.bcrypt_rounds,
            first_admin=not self.production,
        )


def setting_names() -> dict[str, tuple[str, ...]]:
    """Field → the variables that it is read from, in their order."""
    return {field: _aliases(info.validation_alias) for field, info in Settings.model_fields.items()}


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
        extra = Settings.model_fields[field].json_schema_extra
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
