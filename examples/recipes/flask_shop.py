"""Taskmill in Flask.

TASKMILL_API_URL=http://localhost:3000 TASKMILL_API_KEY=… flask --app flask_shop run
"""

from __future__ import annotations

from typing import Any

from flask import Flask, abort, request
from shop_tasks import send_receipt

from taskmill.errors import InvalidPayload, NotFound, Unavailable

web = Flask(__name__)


@web.post("/orders")
def order() -> tuple[dict[str, Any], int]:
    given = request.get_json()
    task = send_receipt.submit_sync(order=given["number"], to=given["email"])
    return {"task": task.id}, 202


@web.get("/tasks/<id>")
def task(id: str) -> dict[str, Any]:
    try:
        seen = send_receipt.submitted(id).look_sync()
    except NotFound:
        abort(404)
    return {"status": seen.status.name, "error": seen.error}


@web.errorhandler(InvalidPayload)
def invalid(error: InvalidPayload) -> tuple[dict[str, str], int]:
    return {"detail": error.message}, 400


@web.errorhandler(Unavailable)
def unavailable(error: Unavailable) -> tuple[dict[str, str], int]:
    return {"detail": error.message}, 503
