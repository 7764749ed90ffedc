"""Secrets: what production refuses, what development makes and keeps, and that none is shown."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest

from taskmill.errors import ConfigError
from taskmill.runtime.secret import kept_secret
from tests.settings.kit import GOOD_SECRET, load, refusal


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


@pytest.mark.parametrize("password", ["taskpass", "%70ass", "PASSWORD", "your-password", "change-me", "…"])
def test_production_refuses_a_published_password(password: str) -> None:
    """One line, whatever the command: a database that everybody can enter is none for production."""
    url = f"mariadb://taskuser:{password}@h/d"
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
