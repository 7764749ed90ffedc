"""Every setting of Taskmill: read from the environment and a `.env` file, checked, and handed to the layers.

Nothing else reads the environment, but for taskmill.handlers: a runner imports no settings, so its handlers get
their options through one variable (`handler_options`), and for taskmill.client, which any program may use: it reads
TASKMILL_API_URL and TASKMILL_API_KEY where it is given none. A variable of the environment wins over the same one in
`.env`; an empty one counts as not set. A wrong value is a ConfigError of one line that names the setting and what is
expected; a value that may hold a secret is never shown.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

from taskmill.errors import ConfigError
from taskmill.runtime import forms
from taskmill.runtime.secret import SECRET_MINIMUM, kept_secret
from taskmill.settings.fields import A_KEY, A_SECRET, AN_API
from taskmill.settings.model import ENV_FILE, Model, flag_name, setting_names
from taskmill.settings.published import is_example

if TYPE_CHECKING:  # each process imports the layers that it runs, and no others
    from taskmill.api.options import ApiOptions, AuthOptions
    from taskmill.handlers.options import HandlerOptions
    from taskmill.index.connect import IndexOptions
    from taskmill.sql.engine import SqlOptions
    from taskmill.tasks.mill import TaskOptions
    from taskmill.upkeep.options import UpkeepOptions
    from taskmill.worker.options import WorkerOptions
    from taskmill.worker.remote import RemoteOptions

__all__ = ["DEVELOPMENT_APP", "ENV_FILE", "SECRET_FILE", "Settings", "flag_name", "setting_names"]

SECRET_FILE: Final = "jwt-secret"  # noqa: S105 (a name)
DEVELOPMENT_APP: Final = "taskmill.handlers:app"


class Settings(Model):
    """The settings, what follows from them, and the options that they make for each layer."""

    # -- what follows from them --------------------------------------------------------------------------

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
        return self.host or ("0.0.0.0" if self.production else "127.0.0.1")  # noqa: S104 (in a container)  # nosec B104

    @property
    def known_hosts(self) -> tuple[str, ...]:
        """Names that the API answers to; none: any. On a developer's machine, no web page makes up another for it."""
        if self.allowed_hosts or self.production or not forms.is_loopback(self.api_host):
            return () if "*" in self.allowed_hosts else self.allowed_hosts
        return ("localhost", "*.localhost")

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
        """The key of access tokens. ConfigError in production when it is missing, short or an example; else one is made
        once."""
        if self.jwt_secret is not None:
            return self._key("JWT_SECRET", self.jwt_secret)
        if self.production:
            raise ConfigError(f"JWT_SECRET: expected {A_SECRET}; it is not set")
        return kept_secret(self.data_folder() / SECRET_FILE)

    def _key(self, name: str, text: str) -> bytes:
        """ConfigError in production when it is short or an example; else a short one is stretched."""
        key = text.encode()
        if self.production and is_example(text):
            raise ConfigError(f"{name}: expected {A_SECRET}; it is an example of the documentation")
        if self.production and len(key) < SECRET_MINIMUM:
            raise ConfigError(f"{name}: expected {A_SECRET}; it has {len(key)}")
        return key if len(key) >= SECRET_MINIMUM else hashlib.sha256(key).digest()

    # -- the options of each layer -----------------------------------------------------------------------

    def sql_options(self) -> SqlOptions:
        from taskmill.sql.engine import SqlOptions

        return SqlOptions(url=self.database_url, pool_size=self.pool_size)

    def index_options(self, url: str) -> IndexOptions:
        """`url`: `redis_url`, or what the embedded Valkey answered."""
        from taskmill.index.connect import IndexOptions

        return IndexOptions(
            url=url,
            prefix=self.index_prefix,
            timeout=self.index_timeout,
            hold=self.index_hold,
            refuse_evicting=self.production,
        )

    def task_options(self) -> TaskOptions:
        from taskmill.model.backoff import Backoff
        from taskmill.model.decide import Policy
        from taskmill.tasks.mill import TaskOptions

        policy = Policy(max_retries=self.max_retries, backoff=Backoff(self.backoff_base, self.backoff_cap))
        return TaskOptions(
            lease=self.lease, policy=policy, worker_ttl=self.worker_ttl, schedules=self.schedules
        )

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
            keep_fires_days=self.keep_fires_days,
            # Until another scheduler leads, nothing fires: that is no outage.
            misfire_after=max(self.misfire_after, 2 * self.leader_ttl),
            misfire_grace=self.misfire_grace,
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

    @property
    def remote(self) -> bool:
        """Whether a worker gets its tasks from an API: one is named, and no record."""
        return self.api_url is not None and self.database is None

    def remote_options(self) -> RemoteOptions:
        """ConfigError without the URL of an API, or without a key for it."""
        from taskmill import __version__
        from taskmill.worker.remote import RemoteOptions

        if self.api_url is None:
            raise ConfigError(f"TASKMILL_API_URL: expected {AN_API}; it is not set")
        if self.api_key is None:
            raise ConfigError(f"TASKMILL_API_KEY: expected {A_KEY}, since TASKMILL_API_URL is set")
        return RemoteOptions(
            url=self.api_url,
            key=self.api_key,
            queues=self.queues,
            slots=self.concurrency,
            name=self.worker_name,
            version=__version__,
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
        from taskmill.api.options import ApiOptions, LimitOptions

        return ApiOptions(
            host=self.api_host,
            port=self.port,
            development=not self.production,
            request_timeout=self.request_timeout,
            max_cost=self.max_cost,
            allowed_origins=self.allowed_origins,
            allowed_hosts=self.known_hosts,
            trusted_proxies=self.trusted_proxies,
            limits=LimitOptions(
                user=self.rate_user,
                key=self.rate_key,
                anonymous=self.rate_anonymous,
                login=self.rate_login,
                login_peer=self.rate_login_peer,
                register=self.rate_register,
            ),
        )

    def auth_options(self) -> AuthOptions:
        """ConfigError in production without a good secret; else it may make one (`secret`)."""
        from taskmill.api.options import AuthOptions

        old = self.jwt_secret_previous
        return AuthOptions(
            secret=self.secret(),
            previous=None if old is None else self._key("JWT_SECRET_PREVIOUS", old),
            expiration=self.jwt_expiration,
            bcrypt_rounds=self.bcrypt_rounds,
            first_admin=not self.production,
        )
