"""The recipes for web frameworks: each as its own server, beside a real installation."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from taskmill.client import SyncClient, TaskSummary
from tests.support import ROOT, Processes, answers, free_port, wait_until_sync

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

RECIPES = ROOT / "examples/recipes"
PASSWORD = "a password for tests"


@dataclass
class Shops:
    """An installation that runs the shop's tasks, and web servers beside it."""

    children: Processes
    client: SyncClient
    environment: dict[str, str]

    def serve(self, *command: str) -> httpx2.Client:
        """The web server, when it listens. The port is put in for `PORT`."""
        port = free_port()
        given = [part.replace("PORT", str(port)) for part in command]
        process = self.children.start([sys.executable, *given], env=self.environment, name=given[-2])

        def up() -> bool:
            assert process.returncode is None, process.output()
            return answers(port)

        wait_until_sync(up, 30, what=f"{given} listens")
        return httpx2.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=20)

    def receipts(self) -> list[TaskSummary]:
        return list(self.client.tasks(type="send_receipt"))


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shops]:
    children = Processes(tmp_path_factory.mktemp("recipes"))
    port = free_port()
    environment = {
        "PORT": str(port),
        "TASKMILL_DATA": str(children.folder / "data"),
        "TASKMILL_BCRYPT_ROUNDS": "4",
        "PYTHONPATH": str(RECIPES),
        "PYTHONDONTWRITEBYTECODE": "1",
        "TASKMILL_DRAIN": "1",
    }
    try:
        queues = {"TASKMILL_QUEUES": "default,mail"}
        up = children.taskmill("up", "--app", "shop_tasks:app", env=environment | queues)
        up.wait_for_output("taskmill is up", 40)
        with SyncClient(f"http://127.0.0.1:{port}") as client:
            client.register("shop@example.com", PASSWORD, "Shop")
            key = client.create_api_key("web", "USER").key
            settings = {"TASKMILL_API_URL": f"http://127.0.0.1:{port}", "TASKMILL_API_KEY": key}
            yield Shops(children, client, {**settings, "PYTHONPATH": str(RECIPES)})
    except BaseException:
        for child in children.started:
            print(child.name, child.output()[-4000:])
        raise
    finally:
        children.end()


@pytest.fixture
def shops(installation: Shops, tmp_path: Path) -> Shops:
    """The same, with a folder of the test's own for a shop's data."""
    environment = {**installation.environment, "SHOP_DB": str(tmp_path / "shop.sqlite3")}
    return Shops(installation.children, installation.client, environment)


def ordered(web: httpx2.Client, number: int, **more: Any) -> Any:
    response = web.post("/orders", json={"number": number, "email": "ann@example.com", **more})
    assert response.status_code == 202, response.text
    return response.json()


def test_fastapi(shops: Shops) -> None:
    """An order is answered with the task's id; its result can be asked for; what does not fit is refused."""
    with shops.serve("-m", "uvicorn", "fastapi_shop:web", "--port", "PORT") as web:
        task = ordered(web, 1)["task"]
        assert shops.client.result(task, 30) == {"order": 1, "to": "ann@example.com", "copies": 1}
        assert web.get(f"/tasks/{task}").json()["result"]["copies"] == 1
        assert web.get("/tasks/nothing").status_code == 404
        assert web.post("/orders", json={"number": "x", "email": "a"}).status_code == 422


def test_flask(shops: Shops) -> None:
    """The same from plain functions in threads."""
    with shops.serve("-m", "flask", "--app", "flask_shop", "run", "--port", "PORT") as web:
        task = ordered(web, 2)["task"]
        assert shops.client.result(task, 30)["order"] == 2
        assert web.get(f"/tasks/{task}").json() == {"status": "COMPLETED", "error": None}
        assert web.get("/tasks/nothing").status_code == 404
        assert web.post("/orders", json={"number": "x", "email": "a"}).status_code == 400


def test_django(shops: Shops) -> None:
    """A committed order submits its task, one that is rolled back does not."""
    with shops.serve(str(RECIPES / "django_shop.py"), "runserver", "--noreload", "PORT") as web:
        before = len(shops.receipts())
        ordered(web, 3, card="declined")
        ordered(web, 4)
        assert web.get("/orders").json() == {"orders": [4]}
        [receipt] = shops.receipts()[: len(shops.receipts()) - before]
        assert shops.client.result(receipt.id, 30)["order"] == 4
        assert web.get(f"/tasks/{receipt.id}").json()["status"] == "COMPLETED"
        assert web.get("/tasks/nothing").status_code == 404
