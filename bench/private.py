"""Servers that nobody else uses: their counters and their processor time are the benchmark's alone.

MySQL is the one that `scripts/services up mysql` has installed (Debian, as root), with a data folder of its own; Redis is
`redis-server` of the path. Both listen on loopback, commit durably, and end with their `with`, their data with them.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from common import free_port

KINDS: Final = ("bench", "api", "worker", "scheduler")
"""An account each: the server then counts for each kind of process."""
PASSWORD: Final = "bench"  # of servers on loopback that live for minutes  # noqa: S105
SERVICES: Final = "/var/tmp/taskmill-test-services"  # as in scripts/services  # noqa: S108  # nosec B108
DURABLE: Final = ("--innodb-flush-log-at-trx-commit=1", "--sync-binlog=1", "--innodb-buffer-pool-size=1G")


@dataclass(frozen=True, slots=True)
class Server:
    pid: int
    port: int

    def mysql(self, kind: str = "bench", database: str = "mysql") -> str:
        return f"mysql://{kind}:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    @property
    def redis(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"


def mysql_root() -> Path:
    """Where scripts/services installs MySQL."""
    root = Path(os.environ.get("TASKMILL_SERVICES", SERVICES)) / "mysql-root"
    if not (root / "usr/sbin/mysqld").exists():
        raise SystemExit(f"no MySQL in {root}: run scripts/services up mysql, or set TASKMILL_SERVICES")
    if os.geteuid() != 0:
        raise SystemExit("MySQL lives in a folder of its own, which takes root to enter")
    return root


@contextmanager
def mysql(*options: str) -> Iterator[Server]:
    """A new MySQL with durable commits; `options` come after the others, so they win."""
    root = mysql_root()
    data = f"/var/lib/bench-{secrets.token_hex(5)}"
    inside = root / data.strip("/")
    accounts = [
        f"CREATE USER '{kind}'@'%' IDENTIFIED BY '{PASSWORD}'; GRANT ALL ON *.* TO '{kind}'@'%';"
        for kind in KINDS
    ]
    command = ["chroot", str(root), "mysqld", "--no-defaults", "--user=mysql", f"--datadir={data}/data"]
    _call(["chroot", str(root), "install", "-d", "-o", "mysql", "-g", "mysql", data])
    try:
        _call([*command, "--initialize-insecure"])
        first = inside / "accounts.sql"
        first.write_text("\n".join(["SET sql_log_bin = 0;", *accounts, ""]))
        first.chmod(0o644)
        port = free_port()
        wishes = [
            f"--port={port}",
            "--bind-address=127.0.0.1",
            "--mysqlx=OFF",
            f"--socket={data}/m.sock",
            f"--pid-file={data}/m.pid",
            f"--init-file={data}/accounts.sql",
            *DURABLE,
            *options,
        ]
        with _running([*command, *wishes], port) as pid:
            yield Server(pid, port)
    finally:
        shutil.rmtree(inside, ignore_errors=True)


@contextmanager
def redis(*options: str) -> Iterator[Server]:
    """A new Redis without persistence: an index needs none."""
    with tempfile.TemporaryDirectory(prefix="tm_bench_") as folder:
        port = free_port()
        command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", folder]
        with _running([*command, "--save", "", "--appendonly", "no", *options], port) as pid:
            yield Server(pid, port)


@contextmanager
def redis_cluster(nodes: int = 3) -> Iterator[list[Server]]:
    """Primaries alone, the slots in equal parts."""
    from redis import Redis

    with ExitStack() as stack:
        buses = [free_port() for _ in range(nodes)]
        servers = [
            stack.enter_context(redis("--cluster-enabled", "yes", "--cluster-port", str(bus)))
            for bus in buses
        ]
        clients = [stack.enter_context(Redis(port=server.port, decode_responses=True)) for server in servers]
        for k, client in enumerate(clients):
            first, last = 16384 * k // nodes, 16384 * (k + 1) // nodes - 1
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
        for server, bus in zip(servers[1:], buses[1:], strict=True):
            clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", server.port, bus)
        end = time.monotonic() + 30
        while not all("cluster_state:ok" in client.execute_command("CLUSTER", "INFO") for client in clients):
            if time.monotonic() > end:
                raise TimeoutError("the cluster does not come together")
            time.sleep(0.05)
        yield servers


def _call(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:4])} …: {done.stderr[-2000:]}")


@contextmanager
def _running(command: Sequence[str], port: int) -> Iterator[int]:
    """The process id, once it takes connections. In a session of its own: Ctrl-C is for the benchmark."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
        try:
            end = time.monotonic() + 60
            while not _answers(port):
                if process.poll() is not None or time.monotonic() > end:
                    output.seek(0)
                    raise RuntimeError(
                        f"{command[0]} does not answer: {output.read()[-2000:].decode(errors='replace')}"
                    )
                time.sleep(0.05)
            yield process.pid
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 0.5):
            return True
    except OSError:
        return False
