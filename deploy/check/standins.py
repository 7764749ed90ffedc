"""Stand-ins for the official images, which cannot be pulled where there is no registry: Debian's packages under the same names.

Each starts as the official one does, as far as our files use it: the entry point, its variables, the user, the folders.
What a stand-in cannot show is said in the documentation.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from deploy.check.command import run
from deploy.check.debian import bootstrap
from deploy.check.engine import Docker
from deploy.check.stage import Broken

LABEL = "taskmill.stand-in"
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
# As Debian's own slim images leave it out.
SLIM = tuple(f"path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale", "info", "lintian"))
LICENCES = "path-include=/usr/share/doc/*/copyright"

MYSQL = r"""#!/bin/sh
set -eu
case "${1:-}" in ""|-*) set -- mysqld "$@" ;; esac
[ "$1" = mysqld ] || exec "$@"
shift
if [ ! -d /var/lib/mysql/mysql ]; then
  mysqld --initialize-insecure --user=mysql
  cat >/tmp/first.sql <<SQL
ALTER USER root@localhost IDENTIFIED BY '${MYSQL_ROOT_PASSWORD}';
CREATE USER root@'%' IDENTIFIED BY '${MYSQL_ROOT_PASSWORD}';
GRANT ALL ON *.* TO root@'%' WITH GRANT OPTION;
CREATE DATABASE \`${MYSQL_DATABASE}\`;
CREATE USER '${MYSQL_USER}'@'%' IDENTIFIED BY '${MYSQL_PASSWORD}';
GRANT ALL ON \`${MYSQL_DATABASE}\`.* TO '${MYSQL_USER}'@'%';
SQL
  set -- --init-file=/tmp/first.sql "$@"
fi
exec mysqld --user=mysql "$@"
"""

REDIS = r"""#!/bin/sh
set -eu
case "${1:-}" in ""|-*) set -- redis-server "$@" ;; esac
if [ "$1" = redis-server ]; then
  set -- "$@" --protected-mode no
  if [ "$(id -u)" = 0 ]; then
    chown redis /data
    exec setpriv --reuid=redis --regid=redis --clear-groups "$@"
  fi
fi
exec "$@"
"""

NGINX = r"""#!/bin/sh
set -eu
known=$(env | sed -n 's/^\([A-Za-z_][A-Za-z0-9_]*\)=.*/${\1}/p')
for template in /etc/nginx/templates/*.template; do
  [ -e "$template" ] || continue
  envsubst "$known" <"$template" >"/etc/nginx/conf.d/$(basename "$template" .template)"
done
exec "$@"
"""
NGINX_CONF = """user nginx;
worker_processes auto;
error_log /var/log/nginx/error.log notice;
pid /run/nginx.pid;
events { worker_connections 1024; }
http {
  include /etc/nginx/mime.types;
  default_type application/octet-stream;
  access_log /var/log/nginx/access.log;
  sendfile on;
  keepalive_timeout 65;
  include /etc/nginx/conf.d/*.conf;
}
"""


@dataclass(frozen=True)
class StandIn:
    suite: str
    packages: tuple[str, ...]
    """The first is the one whose version the tag of the image promises."""
    setup: str = ""
    """Shell, in the new root."""
    files: dict[str, str] = field(default_factory=dict)
    changes: tuple[str, ...] = ()
    """What `docker import --change` takes."""

    def digest(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


def _entry(*words: str) -> str:
    return "ENTRYPOINT " + json.dumps(words)


def _command(*words: str) -> str:
    return "CMD " + json.dumps(words)


def _monitor(package: str, program: str, data: str, *options: str, more: tuple[str, ...] = ()) -> StandIn:
    """Prometheus and its Alertmanager: the official images are busybox and one program."""
    return StandIn(
        "sid",
        (package, *more, "busybox", "ca-certificates"),
        setup=f"ln -s busybox /bin/wget; mkdir -p {data}; chown 65534:65534 {data}",
        changes=(_entry(f"/bin/{program}"), _command(*options), "USER nobody", f"WORKDIR {data}"),
    )


STANDINS = {
    "python": StandIn(
        "trixie",
        ("python3", "python3-venv", "python3-pip", "ca-certificates"),
        setup="ln -s /usr/bin/python3 /usr/local/bin/python; rm -f /usr/lib/python3*/EXTERNALLY-MANAGED",
        changes=(_command("python3"),),
    ),
    "mysql": StandIn(
        "sid",
        ("mysql-server-core", "mysql-client-core"),
        setup="useradd --system --uid 999 mysql; mkdir -p /etc/mysql/conf.d /var/lib/mysql /var/lib/mysql-files /var/run/mysqld; "
        "chown mysql /var/lib/mysql /var/lib/mysql-files /var/run/mysqld; chmod 1777 /var/lib/mysql /var/run/mysqld",
        files={
            "/etc/mysql/my.cnf": "!includedir /etc/mysql/conf.d/\n",
            "/usr/local/bin/docker-entrypoint.sh": MYSQL,
        },
        changes=(_entry("docker-entrypoint.sh"), _command("mysqld"), "VOLUME /var/lib/mysql"),
    ),
    "redis": StandIn(
        "trixie",
        ("redis-server", "redis-tools"),
        setup="mkdir /data; chown redis:redis /data",
        files={"/usr/local/bin/docker-entrypoint.sh": REDIS},
        changes=(
            _entry("docker-entrypoint.sh"),
            _command("redis-server"),
            "WORKDIR /data",
            "VOLUME /data",
        ),
    ),
    "nginx": StandIn(
        "sid",  # trixie's is too old for `resolve` in an upstream
        ("nginx", "gettext-base", "curl"),
        setup="useradd --system --uid 101 nginx || useradd --system nginx; rm -rf /etc/nginx/sites-enabled /etc/nginx/conf.d; mkdir /etc/nginx/conf.d; "
        "ln -sf /dev/stdout /var/log/nginx/access.log; ln -sf /dev/stderr /var/log/nginx/error.log",
        files={"/docker-entrypoint.sh": NGINX, "/etc/nginx/nginx.conf": NGINX_CONF},
        changes=(
            _entry("/docker-entrypoint.sh"),
            _command("nginx", "-g", "daemon off;"),
        ),
    ),
    "prom/prometheus": _monitor(
        "prometheus",
        "prometheus",
        "/prometheus",
        "--config.file=/etc/prometheus/prometheus.yml",
        "--storage.tsdb.path=/prometheus",
        more=("promtool",),
    ),
    "prom/alertmanager": _monitor(
        "prometheus-alertmanager",
        "prometheus-alertmanager",
        "/alertmanager",
        "--config.file=/etc/alertmanager/alertmanager.yml",
        "--storage.path=/alertmanager",
    ),
}


def standins(docker: Docker, *images: str) -> None:
    """Makes those of `images` (as "mysql:9.7") that the engine has not got yet; a minute for each, with the network."""
    for image in images:
        name = image.partition(":")[0]
        if name not in STANDINS:
            raise Broken(f"{image}: no stand-in, expected one of {', '.join(STANDINS)}")
        standin = STANDINS[name]
        form = f'{{{{index .Config.Labels "{LABEL}"}}}}'
        if docker.attempt("image", "inspect", "--format", form, image).stdout.strip() != standin.digest():
            _make(docker, image, standin)


def _make(docker: Docker, image: str, standin: StandIn) -> None:
    with tempfile.TemporaryDirectory(prefix="taskmill-image-") as folder:
        root = Path(folder, "root")
        _install(standin, root)
        _tell_version(image, standin, root)
        if image.startswith("python:"):
            _let_it_fetch(root)
        archive = Path(folder, "root.tar")
        run(["tar", "--create", "--numeric-owner", f"--file={archive}", f"--directory={root}", "."])
        changes = (*standin.changes, f"LABEL {LABEL}={standin.digest()}")
        docker("import", *(f"--change={change}" for change in changes), str(archive), image)


def _install(standin: StandIn, root: Path) -> None:
    options = (f"--dpkgopt={option}" for option in (*SLIM, LICENCES))
    bootstrap(standin.suite, standin.packages, root, *options)
    run(["chroot", str(root), "sh", "-euc", standin.setup])
    for path, text in standin.files.items():
        file = root / path.lstrip("/")
        file.write_text(text, encoding="utf-8")
        file.chmod(0o755 if text.startswith("#!") else 0o644)


def _tell_version(image: str, standin: StandIn, root: Path) -> None:
    """The tag is kept even where Debian has moved on, but never silently."""
    query = ["dpkg-query", f"--root={root}", "--show", "--showformat=${Version}", standin.packages[0]]
    version = run(query).rpartition(":")[2]
    promised = image.partition(":")[2].partition("-")[0].lstrip("v")
    same = version.startswith(promised)
    print(f"{image}: Debian {standin.suite}'s {version}" + ("" if same else " stands in for it"), flush=True)


def _let_it_fetch(root: Path) -> None:
    """pip in the image fetches as pip on this machine does: the same authorities and the same index."""
    if Path(CERTIFICATES).exists():
        shutil.copyfile(CERTIFICATES, root / CERTIFICATES.lstrip("/"))
    lines = ["[global]", f"cert = {CERTIFICATES}"]
    for name in ("index-url", "proxy"):
        with suppress(Broken):  # not set
            lines.append(
                f"{name} = {run(['python3', '-m', 'pip', 'config', 'get', f'global.{name}']).strip()}"
            )
    (root / "etc/pip.conf").write_text("\n".join([*lines, ""]), encoding="utf-8")
