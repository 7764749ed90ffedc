"""Settings: names, defaults, forms, one line for each mistake, no secret in any of them."""

from __future__ import annotations

import os
import stat
import threading
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from taskmill.errors import ConfigError
from taskmill.handlers.options import HandlerOptions
from taskmill.runtime.secret import kept_secret
from taskmill.settings import DEVELOPMENT_APP, Settings, setting_names

GOOD_SECRET = "a-good-secret-of-more-than-32-bytes!"


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of the shell, and an empty working folder."""
    for names in setting_names().values():
        for name in names:
            monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def load(**environment: str) -> Settings:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        return Settings.load()


def refusal(**environment: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(**environment)
    return caught.value.message


# -- names and defaults ----------------------------------------------------------------------------------

# SEED.md's table, the database URL apart: not set, ours is embedded.
DEFAULTS = {
    "REDIS_HOST": "localhost",
    "REDIS_PORT": 6379,
    "JWT_EXPIRATION": timedelta(days=1),
    "PORT": 3000,
    "APP_ENV": "development",
    "QUEUE_CONCURRENCY": 5,
    "MAX_RETRY_ATTEMPTS": 3,
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_defaults_of_the_description(name: str) -> None:
    """Each name of SEED.md's table is a setting with the default that stands there."""
    (field,) = [field for field, names in setting_names().items() if name in names]
    assert getattr(load(), field) == DEFAULTS[name]


def test_every_name_is_known_or_ours() -> None:
    """Beside the names of SEED.md and a few that everybody knows, all begin with TASKMILL_."""
    names = [name for names in setting_names().values() for name in names]
    others = {name for name in names if not name.startswith("TASKMILL_")}
    assert others == {
        *DEFAULTS,
        "NODE_ENV",
        "DATABASE_URL",
        "REDIS_URL",
        "JWT_SECRET",
        "JWT_SECRET_PREVIOUS",
        "NO_COLOR",
    }
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("environment", "field", "value"),
    [
        ({"NODE_ENV": "production"}, "environment", "production"),
        ({"NODE_ENV": "production", "APP_ENV": "test"}, "environment", "test"),
        ({"NODE_ENV": "production", "APP_ENV": ""}, "environment", "production"),
        ({"APP_ENV": "Production"}, "environment", "production"),
        ({"PORT": ""}, "port", 3000),
        ({"JWT_EXPIRATION": "30s"}, "jwt_expiration", timedelta(seconds=30)),
        ({"JWT_EXPIRATION": "15m"}, "jwt_expiration", timedelta(minutes=15)),
        ({"JWT_EXPIRATION": "12h"}, "jwt_expiration", timedelta(hours=12)),
        ({"JWT_EXPIRATION": "1d"}, "jwt_expiration", timedelta(days=1)),
        ({"TASKMILL_QUEUES": "mail, video,mail"}, "queues", ("mail", "video")),
        ({"TASKMILL_WEBHOOK_ALLOW_PRIVATE": "true"}, "webhook_allow_private", True),
        ({"TASKMILL_ALLOWED_ORIGINS": "https://A.example/"}, "allowed_origins", ("https://a.example",)),
        ({"TASKMILL_ALLOWED_HOSTS": "A.example., *.b.example"}, "known_hosts", ("a.example", "*.b.example")),
        ({}, "known_hosts", ("localhost", "*.localhost")),
        ({"TASKMILL_HOST": "::1"}, "known_hosts", ("localhost", "*.localhost")),
        ({"TASKMILL_HOST": "0.0.0.0"}, "known_hosts", ()),
        ({"TASKMILL_ALLOWED_HOSTS": "*"}, "known_hosts", ()),
        ({"APP_ENV": "production", "TASKMILL_HOST": "127.0.0.1"}, "known_hosts", ()),
        (
            {"TASKMILL_TRUSTED_PROXIES": "10.0.0.0/8, ::1"},
            "trusted_proxies",
            (ip_network("10.0.0.0/8"), ip_network("::1/128")),
        ),
        ({"TASKMILL_RATE_USER": "0"}, "rate_user", 0),
        ({"DATABASE_URL": "mysql://u:p%40ss@h:3307/db"}, "database", "mysql://u:p%40ss@h:3307/db"),
        ({"DATABASE_URL": "mysql://u:p@ss@h/db"}, "database", "mysql://u:p%40ss@h/db"),
        ({"DATABASE_URL": "mysql://u:p:s@[::1]/db"}, "database", "mysql://u:p%3As@[::1]/db"),
        ({"DATABASE_URL": "sqlite:////abs/x.db"}, "database", "sqlite:////abs/x.db"),
        ({"DATABASE_URL": "mysql://u:p@h:3306/db"}, "redis_url", "redis://localhost:6379/0"),
        ({"DATABASE_URL": "mysql://h/d", "REDIS_HOST": "r", "REDIS_PORT": "7"}, "redis_url", "redis://r:7/0"),
        ({"DATABASE_URL": "mysql://h/d", "REDIS_URL": "redis://:p@q/1"}, "redis_url", "redis://:p@q/1"),
        ({"DATABASE_URL": "mysql://h/d", "TASKMILL_INDEX": "none"}, "redis_url", None),
        ({"REDIS_HOST": "elsewhere"}, "redis_url", None),
        ({}, "embedded_index", True),
        ({"REDIS_URL": "redis://h"}, "embedded_index", False),
        ({"TASKMILL_INDEX": "none"}, "embedded_index", False),
        ({"DATABASE_URL": "mysql://h/d"}, "embedded_index", False),
        ({}, "api_host", "127.0.0.1"),
        ({"APP_ENV": "production"}, "api_host", "0.0.0.0"),
        ({"APP_ENV": "production", "TASKMILL_HOST": "::1"}, "api_host", "::1"),
        ({}, "app_name", DEVELOPMENT_APP),
        ({"TASKMILL_APP": "shop.jobs:app", "APP_ENV": "production"}, "app_name", "shop.jobs:app"),
    ],
    ids=str,
)
def test_values_are_read(environment: dict[str, str], field: str, value: Any) -> None:
    """What is written in the environment comes out as the layers need it."""
    assert getattr(load(**environment), field) == value


def test_paths_are_absolute(tmp_path: Path) -> None:
    """Data lies below the working folder, and a child that works elsewhere finds it."""
    assert load().database_url == f"sqlite:///{tmp_path}/.taskmill/taskmill.db"
    assert load(DATABASE_URL="sqlite:///x.db").database == f"sqlite:///{tmp_path}/x.db"
    assert load(TASKMILL_DATA="d").media_folder == tmp_path / "d" / "media"


@pytest.mark.parametrize(
    "url",
    [
        "redis://h",
        "redis://u:p@h:1/2",
        "rediss://h:1",
        "unix:///run/x.sock?db=1",
        "redis+sentinel://u:p@a:1,b:2/main/0",
        "rediss+cluster://a,b",
    ],
)
def test_every_form_of_an_index_is_taken(url: str) -> None:
    """The forms of index/connect.py pass unchanged."""
    assert load(REDIS_URL=url).redis == url


# -- mistakes --------------------------------------------------------------------------------------------

WRONG = [
    ("PORT", ["0", "65536", "abc", "3000.5", "-1", "1e9", "٣٠٠٠x"]),
    ("QUEUE_CONCURRENCY", ["0", "-1", "1e9", "1000000000", "abc"]),
    ("MAX_RETRY_ATTEMPTS", ["-1", "1001"]),
    ("JWT_EXPIRATION", ["1", "1w", "d", "0s", "-1d", "1.5h", "9999999999d", "99999999d"]),
    ("APP_ENV", ["prod"]),
    ("NODE_ENV", ["staging"]),
    ("REDIS_PORT", ["0", "x"]),
    ("REDIS_HOST", ["a b", "a/b", "redis://x"]),
    ("TASKMILL_LEASE", ["nan", "inf", "0", "x"]),
    ("TASKMILL_QUEUES", [",", "a b", "ü", "a,,b", "a:b"]),
    ("TASKMILL_APP", ["app", "a.b", ":app", "a:b:c", "../x:app"]),
    ("TASKMILL_INDEX", ["redis"]),
    ("TASKMILL_INDEX_PREFIX", ["a{b}"]),
    ("TASKMILL_LOG_LEVEL", ["loud"]),
    ("TASKMILL_SMTP_FROM", ["nobody", "a@b\r\nBcc: x@y"]),
    ("TASKMILL_WEBHOOK_ALLOW_PRIVATE", ["perhaps"]),
    ("TASKMILL_ALLOWED_ORIGINS", ["*", "example.com", "https://a/b"]),
    ("TASKMILL_ALLOWED_HOSTS", ["https://a", "a:80", "a,,b", "*a", "a.*", "a b"]),
    ("TASKMILL_TRUSTED_PROXIES", ["proxy", "10.0.0.1/8", "10.0.0.0/33", "*", "10.0.0.1,"]),
    ("TASKMILL_RATE_USER", ["-1", "1.5", "many"]),
    ("TASKMILL_DATA", [" "]),
    (
        "DATABASE_URL",
        ["postgres://u:p@h/d", "mysql://u:p@h", "mysql:///d", "mysql://u:p@h:x/d", "mysql://u:p@h:70000/d", "sqlite://"]
        + ["sqlite:///", "sqlite:///:memory:", "sqlite:x.db", "file:./dev.db", "mysql://u:p@h/d?connection_limit=5", "x"],
    ),
    ("REDIS_URL", ["h:6379", "http://h", "redis://", "redis://h:x", "redis://h/x", "unix://x", "redis+sentinel://"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG for value in values])
def test_a_wrong_value_is_one_line_that_names_the_setting(name: str, value: str) -> None:
    """It begins with the name and says what is expected."""
    text = refusal(**{name: value})
    assert text.startswith(f"{name}: expected ")
    assert "\n" not in text
    assert len(text) < 250


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "mysql://user:hunter2@host:x/db"),
        ("DATABASE_URL", "mysql://user:hunter2/x#?@host/db"),
        ("REDIS_URL", "redis://:hunter2@host:x/0"),
    ],
)
def test_a_password_is_never_shown(name: str, value: str) -> None:
    """Not in the refusal of a value, not when settings are printed."""
    assert "hunter2" not in refusal(**{name: value})
    settings = load(
        DATABASE_URL="mysql://u:hunter2@h/d", JWT_SECRET="hunter2", REDIS_URL="redis://:hunter2@h",
        TASKMILL_SMTP_PASSWORD="hunter2",
    )  # fmt: skip
    assert "hunter2" not in f"{settings!r} {settings} {settings.sql_options()!r}"


def test_all_wrong_settings_are_named() -> None:
    """The first with what is expected, the others by name, still in one line."""
    text = refusal(PORT="x", QUEUE_CONCURRENCY="0", TASKMILL_LEASE="y")
    assert text.startswith("PORT: expected ")
    assert text.endswith("(also wrong: QUEUE_CONCURRENCY, TASKMILL_LEASE)")


@pytest.mark.parametrize(
    "environment",
    [
        {"TASKMILL_BACKOFF_BASE": "10", "TASKMILL_BACKOFF_CAP": "5"},
        {"TASKMILL_INDEX_TIMEOUT": "5", "TASKMILL_INDEX_HOLD": "5"},
        {"TASKMILL_SMTP_USER": "me"},
    ],
    ids=str,
)
def test_what_is_wrong_together(environment: dict[str, str]) -> None:
    """Values that are right alone and wrong together are one line too."""
    assert refusal(**environment).startswith("TASKMILL_")


def test_a_flag_wins_and_its_mistake_names_the_flag() -> None:
    """What the command line gives is checked like the variable, under its own name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PORT", "4000")
        assert Settings.load(port="5000").port == 5000
        assert Settings.load(port=None).port == 4000
    with pytest.raises(
        ConfigError, match="--concurrency: expected a whole number from 1 to 10000, got 'abc'"
    ):
        Settings.load(concurrency="abc")
    with pytest.raises(ConfigError, match="--name: expected"):
        Settings.load(worker_name="a b")


# -- .env ------------------------------------------------------------------------------------------------


def test_the_file_is_read_and_the_environment_wins(tmp_path: Path) -> None:
    """`.env` of the working folder, below the environment."""
    (tmp_path / ".env").write_text("# mine\nPORT=4000\nexport QUEUE_CONCURRENCY='7'\nREDIS_PORT=\n")
    settings = load(QUEUE_CONCURRENCY="8")
    assert (settings.port, settings.concurrency, settings.redis_port) == (4000, 8, 6379)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"PORT=1\n\nthis is no line\n", ".env: line 3: expected NAME=value"),
        (b"PORT\n", ".env: line 1: expected NAME=value"),
        (b"\xff\xfe", ".env: expected text in UTF-8"),
        (b"PORT=x\n", "PORT: expected a whole number"),
        (b"x=" + b"y" * 1024 * 1024, ".env: expected at most 1 MB"),
        (None, ".env: cannot be read: is a directory"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_wrong_file_is_one_line(content: bytes | None, expected: str, tmp_path: Path) -> None:
    """It names the file and the line, or the setting."""
    file = tmp_path / ".env"
    file.mkdir() if content is None else file.write_bytes(content)
    assert refusal().startswith(expected)


# -- warnings --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "file", "expected"),
    [
        ({"TASKMILL_LEAES": "3"}, "", ["TASKMILL_LEAES is not a setting: did you mean TASKMILL_LEASE?"]),
        ({"taskmill_lease": "3"}, "", ["taskmill_lease is not a setting: did you mean TASKMILL_LEASE?"]),
        ({"TASKMILL_PORT": "3"}, "", ["TASKMILL_PORT is not a setting: did you mean PORT?"]),
        ({"TASKMILL_XYZZY": "3"}, "", ["TASKMILL_XYZZY is not a setting"]),
        ({}, "DATABSE_URL=x", ["DATABSE_URL is not a setting: did you mean DATABASE_URL?"]),
        ({}, "SHOP_COLOUR=x", []),
        ({"DATABSE_URL": "x"}, "", []),
        ({"JWT_SECRET": "short"}, "", ["JWT_SECRET is short: production needs 32 bytes"]),
        ({"JWT_SECRET": "short", "APP_ENV": "production"}, "", []),
        ({"JWT_SECRET": GOOD_SECRET, "TASKMILL_LEASE": "3"}, "", []),
    ],
    ids=str,
)
def test_likely_mistakes_are_told(
    environment: dict[str, str],
    file: str,
    expected: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A name that no setting has, with the one that was meant; foreign names of the shell are left alone."""
    for name in [name for name in os.environ if name.startswith("TASKMILL_")]:
        monkeypatch.delenv(name)
    (tmp_path / ".env").write_text(file)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert Settings.load().warnings() == expected


# -- production, and the secret --------------------------------------------------------------------------


@pytest.mark.parametrize("secret", [None, "", "x" * 31])
def test_production_refuses_a_missing_or_short_secret(secret: str | None) -> None:
    """One line with what to do; the secret is not in it."""
    environment = {} if secret is None else {"JWT_SECRET": secret}
    with pytest.raises(ConfigError, match="JWT_SECRET: expected at least 32 bytes") as caught:
        load(APP_ENV="production", **environment).auth_options()
    assert not secret or secret not in caught.value.message


@pytest.mark.parametrize(
    "secret", ["your-jwt-secret", "your-jwt-secret-of-32-bytes-or-more", "Please-change-me-" + "x" * 32]
)
def test_production_refuses_an_example_secret(secret: str) -> None:
    """Whoever reads the documentation could sign tokens with it. In development it is taken."""
    with pytest.raises(ConfigError, match=r"JWT_SECRET: expected .*; it is an example") as caught:
        load(APP_ENV="production", JWT_SECRET=secret).auth_options()
    assert secret not in caught.value.message
    assert load(JWT_SECRET=secret).auth_options().secret


@pytest.mark.parametrize(
    "url", ["mysql://taskuser:taskpass@h/d", "mysql://u:%70ass@h/d", "mariadb://u:password@h/d"]
)
def test_production_refuses_a_published_password(url: str) -> None:
    """One line, whatever the command: a database that everybody can enter is none for production."""
    assert refusal(APP_ENV="production", DATABASE_URL=url).startswith(
        "DATABASE_URL: expected a password of your own"
    )
    assert load(DATABASE_URL=url).database
    assert load(APP_ENV="production", DATABASE_URL="mysql://taskuser:mine@h/d").database


def test_the_secret_of_before() -> None:
    """It is optional; in production a short one is refused, elsewhere it is stretched as JWT_SECRET is."""
    assert load().auth_options().previous is None
    other = GOOD_SECRET[::-1]
    options = load(JWT_SECRET=GOOD_SECRET, JWT_SECRET_PREVIOUS=other, APP_ENV="production").auth_options()
    assert (options.secret, options.previous) == (GOOD_SECRET.encode(), other.encode())
    with pytest.raises(ConfigError, match="JWT_SECRET_PREVIOUS: expected at least 32 bytes"):
        load(JWT_SECRET=GOOD_SECRET, JWT_SECRET_PREVIOUS="short", APP_ENV="production").auth_options()
    assert load(JWT_SECRET_PREVIOUS="short").auth_options().previous == load(JWT_SECRET="short").secret()


def test_production_refuses_a_missing_app() -> None:
    """The demonstration handlers are nothing for production."""
    with pytest.raises(ConfigError, match="--app"):
        _ = load(APP_ENV="production").app_name


def test_production_takes_a_good_secret() -> None:
    """It is the key, as it is, and the first user is no ADMIN by itself."""
    options = load(APP_ENV="production", JWT_SECRET=GOOD_SECRET).auth_options()
    assert (options.secret, options.first_admin) == (GOOD_SECRET.encode(), False)


def test_development_makes_a_secret_once_for_its_owner_alone(tmp_path: Path) -> None:
    """The file has mode 0600 in a folder of 0700, and the next start reads the same."""
    first = load().auth_options().secret
    file = tmp_path / ".taskmill" / "jwt-secret"
    assert load().auth_options().secret == first == file.read_bytes()
    assert len(first) >= 32
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert [path.name for path in file.parent.iterdir()] == ["jwt-secret"]


def test_development_takes_a_short_secret() -> None:
    """As a key of full length, the same at each start."""
    first = load(JWT_SECRET="short").auth_options().secret
    assert first == load(JWT_SECRET="short").auth_options().secret
    assert len(first) == 32


def test_two_that_make_a_secret_at_once_agree(tmp_path: Path) -> None:
    """Whoever is first, both have the same."""
    barrier = threading.Barrier(8)
    found: list[bytes] = []

    def start() -> None:
        barrier.wait()
        found.append(kept_secret(tmp_path / "secret"))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


def test_a_readable_secret_is_closed(tmp_path: Path) -> None:
    """A file that others could read is made private again."""
    file = tmp_path / "secret"
    kept_secret(file)
    file.chmod(0o644)
    kept_secret(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_damaged_secret_is_told(tmp_path: Path) -> None:
    """An empty file is not taken for a key."""
    (tmp_path / "secret").touch()
    with pytest.raises(ConfigError, match="remove the file"):
        kept_secret(tmp_path / "secret")


def test_a_folder_that_was_there_keeps_its_mode(tmp_path: Path) -> None:
    """TASKMILL_DATA may be a folder that is shared."""
    tmp_path.chmod(0o755)
    load(TASKMILL_DATA=str(tmp_path)).data_folder()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    """A file stands in the way."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="TASKMILL_DATA: expected a folder that can be made"):
        load(TASKMILL_DATA=str(tmp_path / "file" / "x")).data_folder()


def test_options_of_the_layers_are_filled() -> None:
    """Each number arrives where it is used."""
    settings = load(
        DATABASE_URL="mysql://h/d", TASKMILL_POOL_SIZE="3", TASKMILL_LEASE="2", MAX_RETRY_ATTEMPTS="9",
        TASKMILL_BACKOFF_BASE="0.5", TASKMILL_INDEX_PREFIX="p", TASKMILL_INDEX_HOLD="7", PORT="4000",
    )  # fmt: skip
    tasks, index, api = settings.task_options(), settings.index_options("redis://h"), settings.api_options()
    assert (settings.sql_options().url, settings.sql_options().pool_size) == ("mysql://h/d", 3)
    assert (tasks.lease, tasks.policy.max_retries, tasks.policy.backoff.base) == (2, 9, 0.5)
    assert (index.url, index.prefix, index.hold) == ("redis://h", "p", 7)
    assert (api.port, api.development) == (4000, True)


def test_options_of_worker_and_scheduler_are_filled() -> None:
    """And failed tasks are kept unless a setting says otherwise."""
    settings = load(
        TASKMILL_LEASE="2", TASKMILL_DRAIN="3", TASKMILL_RUN_TIMEOUT="4", TASKMILL_QUEUES="a", TASKMILL_APP="m:a",
        TASKMILL_LOG_LEVEL="debug", TASKMILL_RESCUE="0.5", TASKMILL_VERIFY_GRACE="0.2", TASKMILL_KEEP_COMPLETED_DAYS="7",
    )  # fmt: skip
    worker, upkeep = settings.worker_options(), settings.upkeep_options()
    assert (worker.lease, worker.drain, worker.timeout, worker.queues) == (2, 3, 4, ("a",))
    assert (worker.app, worker.log_level) == ("m:a", "DEBUG")
    assert (upkeep.rescue, upkeep.verify_grace, upkeep.retain_completed_days) == (0.5, 0.2, 7)
    assert upkeep.retain_failed_days is None
    assert load(TASKMILL_KEEP_FAILED_DAYS="9").upkeep_options().retain_failed_days == 9


def test_handlers_get_their_options_through_the_environment(tmp_path: Path) -> None:
    """What settings say arrives in a runner, which imports no settings."""
    options = load(
        TASKMILL_SMTP_HOST="mail.example", TASKMILL_SMTP_USER="u", TASKMILL_SMTP_PASSWORD="hunter2",
        TASKMILL_WEBHOOK_ALLOW_PRIVATE="yes",
    ).handler_options()  # fmt: skip
    assert options.media == tmp_path / ".taskmill" / "media"
    assert (options.smtp_host, options.smtp_password, options.webhook_allow_private) == (
        "mail.example",
        "hunter2",
        True,
    )
    assert HandlerOptions.read(options.environment()) == options
    assert "hunter2" not in repr(options)


# -- remote workers --------------------------------------------------------------------------------------

API_KEY = "tm_12345678_" + "a" * 43


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("https://tasks.example.com", "https://tasks.example.com"),
        (" http://localhost:3000/graphql ", "http://localhost:3000"),
        ("https://example.com/tasks/graphql/", "https://example.com/tasks"),
        ("http://[::1]:3000/", "http://[::1]:3000"),
    ],
)
def test_the_url_of_an_api(given: str, url: str) -> None:
    """With or without /graphql, below a path too."""
    assert load(TASKMILL_API_URL=given).api_url == url


@pytest.mark.parametrize(
    "given",
    [
        "tasks.example.com",
        "ftp://h",
        "http://",
        "http://u:p@h",
        "http://h?a=1",
        "http://h#f",
        "http://h:0",
        "http://a b",
    ],
)
def test_what_is_no_url_of_an_api(given: str) -> None:
    """Refused, with what is expected."""
    assert refusal(TASKMILL_API_URL=given).startswith("TASKMILL_API_URL: expected http://")


def test_a_worker_is_remote_when_only_an_api_is_named() -> None:
    """DATABASE_URL wins: with a database a worker needs no detour."""
    assert load(TASKMILL_API_URL="http://h").remote
    assert not load(TASKMILL_API_URL="http://h", DATABASE_URL="mysql://u:p@h/d").remote
    assert not load().remote


def test_the_options_of_a_remote_worker() -> None:
    """Both are needed, the key is never shown."""
    settings = load(
        TASKMILL_API_URL="http://h", TASKMILL_API_KEY=API_KEY, TASKMILL_QUEUES="a,b", QUEUE_CONCURRENCY="7"
    )
    options = settings.remote_options()
    assert (options.url, options.key, options.queues, options.slots) == ("http://h", API_KEY, ("a", "b"), 7)
    assert API_KEY not in repr(settings) + repr(options)
    with pytest.raises(ConfigError, match="TASKMILL_API_KEY: expected"):
        load(TASKMILL_API_URL="http://h").remote_options()
    with pytest.raises(ConfigError, match="TASKMILL_API_URL: expected"):
        load(TASKMILL_API_KEY=API_KEY).remote_options()
    assert API_KEY[:-1] not in refusal(TASKMILL_API_KEY=API_KEY[:-1] + " ")
