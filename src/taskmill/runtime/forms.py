"""How settings are written: durations, names, URLs, `.env` files. Each function raises ValueError for a wrong form.

The texts of these errors never reach a reader: a URL holds a password. Who asks says what is expected.
"""

from __future__ import annotations

import io
import ipaddress
import os
import re
import socket
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, quote, unquote, urlsplit, urlunsplit

from taskmill.model.task import QUEUE_NAME

NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}"
HOST: Final = r"[A-Za-z0-9._:\[\]%-]{1,253}"
ENV_FILE_LIMIT: Final = 1024 * 1024
_DOTTED: Final = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_duration(value: Any) -> timedelta:
    """`30s`, `15m`, `12h`, `1d`: one second to ten years."""
    if isinstance(value, timedelta):
        return value
    found = re.fullmatch(r"([0-9]{1,9})([smhd])", str(value).strip())
    seconds = int(found[1]) * _UNITS[found[2]] if found else 0
    if not 1 <= seconds <= 3650 * 86400:
        raise ValueError("no duration")
    return timedelta(seconds=seconds)


def parse_names(value: Any) -> tuple[str, ...]:
    """`default,mail`: at most 100 names, repetitions left out, in their order."""
    parts = value.split(",") if isinstance(value, str) else list(value)
    names = tuple(dict.fromkeys(part.strip() for part in parts))
    if not names or len(names) > 100 or not all(re.fullmatch(QUEUE_NAME, name) for name in names):
        raise ValueError("no names")
    return names


def parse_origins(value: Any) -> tuple[str, ...]:
    """`https://a.example,http://localhost:8080`: scheme and host, as a browser sends them."""
    parts = value.split(",") if isinstance(value, str) else list(value)
    origins = tuple(dict.fromkeys(part.strip().rstrip("/").lower() for part in parts))
    if not all(re.fullmatch(r"https?://[a-z0-9.\[\]:-]{1,253}", origin) for origin in origins):
        raise ValueError("no origins")
    return origins


def parse_hosts(value: Any) -> tuple[str, ...]:
    """`tasks.example.com,*.example.org` or `*`, without ports."""
    parts = value.split(",") if isinstance(value, str) else list(value)
    hosts = tuple(dict.fromkeys(part.strip().rstrip(".").lower() for part in parts))
    if not all(re.fullmatch(r"\*|(\*\.)?[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*", host) for host in hosts):
        raise ValueError("no hosts")
    return hosts


def parse_networks(value: Any) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    """`10.0.0.0/8,::1`: addresses and networks."""
    parts = value.split(",") if isinstance(value, str) else list(value)
    return tuple(ipaddress.ip_network(str(part).strip()) for part in parts)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def host_name() -> str:
    """This machine's, as a NAME."""
    return re.sub(r"[^A-Za-z0-9._:-]", "-", socket.gethostname()).strip("._:-")[:64] or "worker"


def parse_app(value: Any) -> str:
    """`module:attribute`."""
    if not re.fullmatch(rf"{_DOTTED}:{_DOTTED}", str(value)):
        raise ValueError("no module:attribute")
    return str(value)


def parse_path(value: Any) -> Path:
    """Absolute, so that it means the same to every process."""
    text = str(value)
    if not text.strip() or "\0" in text:
        raise ValueError("no path")
    return Path(text).expanduser().absolute()


def parse_database_url(value: Any) -> str:
    """`mysql://user:pass@host:port/db` or `sqlite:///file`, in a form that no parser misreads: user and password
    percent-encoded whatever they hold, a file absolute."""
    text = str(value).strip()
    if text.startswith("sqlite:"):
        path = text.removeprefix("sqlite:///")
        if path == text or not path or path.endswith("/") or path.startswith(":memory:") or "?" in path:
            raise ValueError("no file")
        return f"sqlite:///{parse_path(path)}"
    parts = urlsplit(text)
    if parts.scheme not in ("mysql", "mariadb") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("no URL of a database, or parameters that the driver does not know")
    if not re.fullmatch(r"/[^/\s]+", parts.path):
        raise ValueError("no database named")
    return _normal(parts)


def parse_redis_url(value: Any) -> str:
    """The forms that index/connect.py knows, user and password percent-encoded."""
    text = str(value).strip()
    if re.fullmatch(r"rediss?\+(sentinel|cluster)://([^@\s]*@)?[^@/\s]+(/\S*)?", text):
        return text  # several hosts: `connect` takes them apart
    parts = urlsplit(text)
    if parts.scheme == "unix" and parts.path.startswith("/"):
        return text
    if parts.scheme not in ("redis", "rediss") or not parts.hostname or parts.fragment:
        raise ValueError("no URL of a Redis")
    if not re.fullmatch(r"(/[0-9]{0,4})?", parts.path):
        raise ValueError("no number of a database")
    return _normal(parts)


def parse_api_url(value: Any) -> str:
    """`https://tasks.example.com`, without the /graphql that it may end in: where a Taskmill's API is.

    No login in it: that is the key's part, and a URL is shown in logs.
    """
    text = str(value).strip()
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("no URL of an API")
    if parts.username is not None or re.search(r"\s", text):
        raise ValueError("a URL without a login is expected")
    path = parts.path.rstrip("/").removesuffix("/graphql").rstrip("/")
    return _normal(parts._replace(path=path))


def _normal(parts: SplitResult) -> str:
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    if not re.fullmatch(HOST, host) or parts.port == 0:
        raise ValueError("no host and port")
    port = f":{parts.port}" if parts.port is not None else ""
    login = ""
    if parts.username is not None:
        password = f":{quote(unquote(parts.password), safe='')}" if parts.password is not None else ""
        login = f"{quote(unquote(parts.username), safe='')}{password}@"
    return urlunsplit(parts._replace(netloc=f"{login}{host}{port}"))


def read_env_file(path: Path) -> list[str]:
    """The names that a `.env` file sets; none when there is no file.

    ValueError, with a text that may be shown, when it cannot be read or holds a line that is no NAME=value.
    """
    from dotenv.parser import parse_stream

    try:
        if not path.exists():
            return []
        if path.is_fifo():
            return []  # can be read once only
        if path.stat().st_size > ENV_FILE_LIMIT:
            raise ValueError("expected at most 1 MB")
        text = path.read_bytes().decode()
    except UnicodeDecodeError:
        raise ValueError("expected text in UTF-8") from None
    except OSError as error:
        raise ValueError(f"cannot be read: {os.strerror(error.errno or 0).lower()}") from None
    names = []
    for binding in parse_stream(io.StringIO(text)):
        if binding.error or (binding.key is not None and binding.value is None):
            blank = len(binding.original.string) - len(binding.original.string.lstrip())
            line = binding.original.line + binding.original.string[:blank].count("\n")
            raise ValueError(f"line {line}: expected NAME=value")
        if binding.key is not None:
            names.append(binding.key)
    return names
