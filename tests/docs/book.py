"""Runs the blocks of one page in their order, as its reader would: in one folder, against one installation."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import stat
import subprocess
import sys
import sysconfig
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any

import httpx2
import pytest
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests.docs.blocks import Block
from tests.support import PRODUCT_SETTINGS, ROOT, free_port, running, wait_until_sync

BIN = Path(sysconfig.get_path("scripts"))
PASSWORD = "securepassword"
LONGEST = 150.0
"""Seconds for one block. A page may start five processes in one, on a machine that is busy."""
RUN = """
import ast, asyncio, inspect, sys
text = open(sys.argv[1], encoding="utf-8").read()
code = compile(text, sys.argv[1], "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
sys.path.insert(0, "")
scope = {"__name__": "__main__"}
done = eval(code, scope)
if inspect.iscoroutine(done):
    asyncio.run(done)
"""
"""Python as in a reader's console: `await` is fine at the top."""


class Book:
    def __init__(self, folder: Path, library: Book | None = None) -> None:
        """With a library, a page reads in that installation, which is started once, until it starts one itself."""
        self.folder = folder
        self.library = library
        self.port = free_port()
        self.base = f"http://127.0.0.1:{self.port}"
        self.pids, self.exported, self.logs = folder / "pids", folder / "exported", folder / "logs"
        shims = folder / "shims"
        for made in (self.logs, shims):
            made.mkdir()
        for name in ("make", "taskmill", "node"):
            shim = shims / name
            shim.write_text(f"#!{sys.executable}\n" + (ROOT / "tests/docs/shims.py").read_text())
            shim.chmod(shim.stat().st_mode | stat.S_IXUSR)
        self.work = folder / "work"
        self.work.mkdir()
        (self.work / "examples").symlink_to(ROOT / "examples")
        (self.work / "tasks.py").write_text("from taskmill import Taskmill\n\napp = Taskmill()\n")
        kept = {
            k: v for k, v in os.environ.items() if k not in PRODUCT_SETTINGS and not k.startswith("TASKMILL_")
        }
        self.environment = {
            **kept,
            "PATH": f"{shims}:{BIN}:{os.environ['PATH']}",
            "PORT": str(self.port),
            "TASKMILL_DATA": str(folder / "data"),
            "TASKMILL_LOG_FORMAT": "json",
            "TASKMILL_BCRYPT_ROUNDS": "4",
            "TASKMILL_API_URL": self.base,
            "TASKMILL_DRAIN": "1",
            "DOCS_TASKMILL": str(BIN / "taskmill"),
            "DOCS_NODE": shutil.which("node") or "node",
            "DOCS_PIDS": str(self.pids),
            "DOCS_LOGS": str(self.logs),
            "PYTHONDONTWRITEBYTECODE": "1",
            "TASKMILL_INDEX_PREFIX": f"docs-{secrets.token_hex(4)}",
        }
        self.servers: dict[str, str] = {}
        """What stands for the MySQL and the Redis of the documentation."""
        self.entered = Lock()
        self._token = ""
        self._keys: dict[str, str] = {}
        self._python = ""

    # -- the installation --------------------------------------------------------------------------------

    def serve(self, app: str | None = None) -> None:
        """`taskmill up`, anew when one runs. The API key of its ADMIN is in the environment from here on."""
        self._own()
        self.stop()
        command = "taskmill up" + (f" --app {app}" if app else "")
        self._shell(command)
        self._enter()

    def _need(self) -> None:
        """An installation, whichever: the library's, before this page has started one itself."""
        if self.serving:
            return
        if self.library is None:
            self.serve()
            return
        with self.library.entered:  # pages are read two at a time
            self.library._need()
        self._at(self.library.port)
        self._token, self._keys = self.library._token, self.library._keys
        self.environment["TASKMILL_API_KEY"] = self.library.environment["TASKMILL_API_KEY"]

    def _own(self) -> None:
        """From here on the page has an installation of its own."""
        if self.library is not None:
            self.library, self._token, self._keys = None, "", {}
            self._at(free_port())

    def _at(self, port: int) -> None:
        self.port, self.base = port, f"http://127.0.0.1:{port}"
        self.environment |= {"PORT": str(port), "TASKMILL_API_URL": self.base}

    @property
    def serving(self) -> bool:
        with suppress(httpx2.HTTPError):
            return httpx2.get(f"{self.base}/health", trust_env=False, timeout=2).status_code < 500
        return False

    def stop(self) -> None:
        """Ends what was started here, and nothing else."""
        pids = [int(p) for p in self.pids.read_text().split()] if self.pids.exists() else []
        for pid in reversed(pids):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        for pid in pids:
            with suppress(ProcessLookupError, AssertionError):
                wait_until_sync(lambda pid=pid: not running(pid), 20)  # type: ignore[misc]
                continue
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.pids.unlink(missing_ok=True)

    def output(self) -> str:
        return "\n".join(
            f"--- {p.name}\n{p.read_text(errors='replace')[-4000:]}" for p in sorted(self.logs.iterdir())
        )

    def _enter(self) -> None:
        """As the first user, who is ADMIN; on an installation that has one already: as the page's."""
        self._token, self._keys = "", {}
        for email in ("docs@example.com", "user@example.com"):
            role = self._sign_in(email)
            if role == "ADMIN":
                break
        for role in ("ADMIN", "WORKER"):
            made = self.ask(
                "mutation($i: CreateApiKeyInput!) { createApiKey(input: $i) { key } }",
                {"i": {"name": f"docs-{role.lower()}", "role": role}},
            )
            if made["data"]:  # in production the first user is no ADMIN
                self._keys[role] = made["data"]["createApiKey"]["key"]
        self.environment["TASKMILL_API_KEY"] = self._keys.get("ADMIN", "")

    def _sign_in(self, email: str) -> str | None:
        """The role of who is signed in now."""
        given = {"email": email, "password": PASSWORD}
        entered = "{ accessToken user { role } }"
        for document, values in (
            (f"mutation($i: LoginInput!) {{ enter: login(input: $i) {entered} }}", given),
            (
                f"mutation($i: RegisterInput!) {{ enter: register(input: $i) {entered} }}",
                given | {"name": "Docs"},
            ),
        ):
            answer = self.ask(document, {"i": values})
            if "errors" not in answer:
                self._token = answer["data"]["enter"]["accessToken"]
                return str(answer["data"]["enter"]["user"]["role"])
        return None

    def ask(self, query: str, variables: dict[str, Any] | None = None) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        body = {"query": query, "variables": variables or {}}
        response = httpx2.post(
            f"{self.base}/graphql", json=body, headers=headers, trust_env=False, timeout=20
        )
        answer: dict[str, Any] = response.json()
        return answer

    # -- a block -----------------------------------------------------------------------------------------

    def run(self, block: Block) -> None:
        if "serve" in block.told:
            self.serve(block.told["serve"] or None)
        runner = {
            "sh": self._sh, "bash": self._sh, "python": self._py, "graphql": self._graphql, "json": self._json,
            "mermaid": None, "text": None, "": None,
        }  # fmt: skip
        assert block.language in runner, f"{block}: this test does not know how to run it"
        if "file" in block.told:
            self._file(block)
        elif (how := runner[block.language]) is not None:
            how(block)

    def _filled(self, block: Block) -> str:
        """What a reader puts in: where the server is, a key, an id."""
        text = re.sub(
            r"(http|ws)://(localhost|127\.0\.0\.1):3000", rf"\1://127.0.0.1:{self.port}", block.text
        )
        if self.servers:
            text = re.sub(r"mysql://taskuser:[^@\s]+@[\w.]+:\d+/taskqueue", self.servers["mysql"], text)
            text = re.sub(r"redis://[\w.]+:\d+/0", self.servers["redis"], text)
        role = "WORKER" if re.search(r"\bworker\b", block.text) else "ADMIN"
        return re.sub(r"\btm_[\w…]*…", lambda _: self._keys.get(role, "tm_none"), text)

    def _file(self, block: Block) -> None:
        path = self.work / block.told["file"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self._filled(block), encoding="utf-8")
        if path.suffix == ".py":
            self._execute(
                block,
                [
                    sys.executable,
                    "-W",
                    "error",
                    "-c",
                    f"import sys; sys.path.insert(0, ''); import {path.stem}",
                ],
            )

    def _sh(self, block: Block) -> None:
        text = self._filled(block)
        for tool in ("curl", "openssl", "node"):  # a reader has them; a bare machine need not
            if re.search(rf"\b{tool}\b", text) and shutil.which(tool) is None:
                pytest.skip(f"{tool} is not on PATH")
        starts = bool(re.search(r"\b(make|taskmill) +(up|api|dev)\b", text))
        if starts:
            self._own()
            self.stop()  # its reader has pressed Ctrl-C
            self._token = ""
        elif re.search(r"\b(taskmill|curl|examples)\b|TASKMILL_API", text):
            self._need()
        text = self._filled(block)
        # A service comes back here when it is ready: sent to the background it would not be waited for.
        text = re.sub(r"(\btaskmill +(?:up|api|worker|scheduler)\b[^&\n]*)&(?!&)", r"\1;", text)
        fails = int(block.told.get("fails", "0"))
        self._execute(
            block,
            ["bash", "-euo", "pipefail", "-c", f"trap 'env -0 > {self.exported}' EXIT\n{text}"],
            status=fails,
        )
        for name, _, value in (e.partition("=") for e in self.exported.read_text().split("\0") if e):
            if name in PRODUCT_SETTINGS or name.startswith("TASKMILL_"):  # what the page exports stays
                self.environment[name] = value
        if not self._token and self.serving:
            self._enter()

    def _py(self, block: Block) -> None:
        text = self._filled(block)
        name = re.match(r"# (\w+)\.py\n", text)
        if name or "= Taskmill()" in text:
            file = f"{name[1]}.py" if name else "tasks.py"
            self._file(Block(block.page, block.line, "python", block.text, {"file": file}))
            return
        self._need()
        text = self._filled(block)
        self._python = self._python + text if "continues" in block.told else text
        script = self.work / "block.py"
        script.write_text(self._python, encoding="utf-8")
        self._execute(block, [sys.executable, "-W", "error", "-c", RUN, str(script)])

    def _graphql(self, block: Block) -> None:
        self._need()
        text = block.text
        if re.search(r'"(…|task-id-here)"', text):
            made = self.ask('mutation { createTask(input: {title: "of the docs"}) { id } }')
            text = re.sub(r'"(…|task-id-here)"', json.dumps(made["data"]["createTask"]["id"]), text)
        if text.lstrip().startswith("subscription"):
            return self._subscription(block, text)
        answer = self.ask(text)
        codes = [e["extensions"]["code"] for e in answer.get("errors", ())]
        expected = [block.told["answers"]] if "answers" in block.told else []
        if "register" in text and codes == ["CONFLICT"]:
            return None  # the reader's first user is there already
        assert codes == expected, f"{block}: {answer}"
        return None

    def _subscription(self, block: Block, text: str) -> None:
        """It is taken, and brings what a new task does."""
        protocol = [Subprotocol("graphql-transport-ws")]
        with connect(
            self.base.replace("http", "ws") + "/graphql", subprotocols=protocol, proxy=None
        ) as socket:
            socket.send(
                json.dumps({"type": "connection_init", "payload": {"Authorization": f"Bearer {self._token}"}})
            )
            assert json.loads(socket.recv(timeout=10))["type"] == "connection_ack", str(block)
            socket.send(json.dumps({"id": "1", "type": "subscribe", "payload": {"query": text}}))
            message = self._first_message(socket)
            assert message["type"] == "next" and "errors" not in message["payload"], f"{block}: {message}"  # noqa: PT018

    def _first_message(self, socket: ClientConnection) -> dict[str, Any]:
        """Nobody tells when a subscription has begun: tasks are made until one is heard of."""
        for _ in range(20):
            self.ask('mutation { createTask(input: {title: "of the docs"}) { id } }')
            with suppress(TimeoutError):
                message: dict[str, Any] = json.loads(socket.recv(timeout=1))
                return message
        raise AssertionError("a subscription that brings nothing")

    def _json(self, block: Block) -> None:
        json.loads(block.text)

    def _shell(self, command: str) -> None:
        self._execute(Block(Path("the test"), 0, "sh", command), ["bash", "-c", command])

    def _execute(self, block: Block, command: list[str], status: int = 0) -> None:
        done = subprocess.run(
            command,
            cwd=self.work,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=LONGEST,
            check=False,
        )
        assert done.returncode == status, (
            f"{block} ended with {done.returncode}:\n{block.text}\n{done.stdout[-4000:]}"
        )
